//! The machines every release must plan for: fitting, near the bound, checked from scratch, as the simulation plays them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use partita_hw::{Machine, Profiles};
use partita_shard::{Objective, Phase, Plan, Quant, Request, Subject, check, model, plan};

fn machine(name: &str) -> Machine {
    let path = format!("{}/../../fixtures/machines/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    Machine::parse(name, &std::fs::read_to_string(path).unwrap(), &Profiles::builtin().unwrap()).unwrap()
}

fn subject(id: &str, quant: &str) -> Subject {
    let quant = Quant::parse(quant).unwrap();
    Subject { spec: model(id).unwrap(), quant, kv_bytes: quant.kv_bytes }
}

fn planned(request: &Request, machine: &Machine) -> Plan {
    let plan = plan(request, machine).unwrap();
    assert_eq!(check(&plan, request, machine), Vec::<String>::new(), "{}", plan.table());
    plan
}

#[test]
fn llama_70b_on_three_machines_is_planned_within_five_percent_of_the_bound() {
    for name in ["h100x8-epyc2", "four-gpus", "h100-tpu-groq576"] {
        let machine = machine(name);
        for quant in ["int8", "bf16"] {
            for (batch, objective) in
                [(1, Objective::Latency), (8, Objective::Throughput), (8, Objective::Latency)]
            {
                let mut request = Request::new(subject("llama-3-70b", quant), batch, 512, 128);
                request.objective = objective;
                if name == "h100-tpu-groq576"
                    && (quant == "bf16" || objective == Objective::Latency)
                    && batch > 1
                {
                    continue;
                }
                let plan = planned(&request, &machine);
                let gap = plan.certificate.gap;
                println!(
                    "| {name} | {quant} | {batch} | {objective:?} | {} | {:.3} | {:.1} | {:.2} % | {} |",
                    plan.strategy,
                    plan.step_us / 1e3,
                    plan.tokens_per_second,
                    100.0 * gap,
                    plan.certificate.work
                );
                assert!(gap <= 0.05, "{name} {quant} {batch} {objective:?}: {}", plan.table());
            }
        }
    }
}

/// The first GPU's plan must not gain from the CPUs beside it: 15 % is the most that measurements support.
#[test]
fn a_cpu_beside_a_gpu_that_holds_the_model_gains_little() {
    for (gpu, cpu) in [
        ("nvidia-h200-sxm-141gb", "intel-xeon-6980p"),
        ("nvidia-h100-sxm5-80gb", "amd-epyc-9654"),
        ("nvidia-h100-sxm5-80gb", "intel-xeon-8480plus"),
        ("nvidia-a100-sxm4-80gb", "amd-epyc-9755"),
    ] {
        let text = |cpus: usize| {
            let host = format!(
                "[[device]]\nname = \"cpu\"\ndriver = \"sim\"\nprofile = \"{cpu}\"\ncount = {cpus}\nmemory_gb = 1024\n"
            );
            let gpu = format!("[[device]]\nname = \"gpu0\"\ndriver = \"sim\"\nprofile = \"{gpu}\"\n");
            let link = "[[link]]\nfrom = \"cpu0\"\nto = \"cpu1\"\ngbs = 200\nlatency_us = 0.5\n";
            let all = if cpus > 0 { format!("{host}{link}{gpu}") } else { gpu };
            Machine::parse("m", &format!("schema = 1\n{all}"), &Profiles::builtin().unwrap()).unwrap()
        };
        for (quant, phase) in
            [("bf16", Phase::Both), ("int8", Phase::Both), ("int8", Phase::Decode), ("int8", Phase::Prefill)]
        {
            for batch in [1, 8, 256] {
                let mut request = Request::new(subject("llama-3-8b", quant), batch, 512, 128);
                request.phase = phase;
                request.objective = Objective::Throughput;
                let alone = planned(&request, &text(0)).tokens_per_second;
                let both = planned(&request, &text(2)).tokens_per_second;
                assert!(both <= 1.15 * alone, "{gpu} {cpu} {quant} {phase:?} {batch}: {alone} {both}");
                assert!(both >= alone * (1.0 - 1e-9), "{gpu} {cpu} {quant} {batch}: {alone} {both}");
            }
        }
    }
}
