//! The machines every release must plan for: fitting, near the bound, and as the simulation plays them.

use partita_hw::{Machine, Profiles};
use partita_shard::{Objective, Plan, Quant, Request, Subject, model, plan};

fn machine(name: &str) -> Machine {
    let path = format!("{}/../../fixtures/machines/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    Machine::parse(name, &std::fs::read_to_string(path).unwrap(), &Profiles::builtin().unwrap()).unwrap()
}

fn subject(id: &str, quant: &str) -> Subject {
    let quant = Quant::parse(quant).unwrap();
    Subject { spec: model(id).unwrap(), quant, kv_bytes: quant.kv_bytes }
}

fn show(plan: &Plan) {
    println!(
        "{}: {} prefill {:.1} ms, handoff {:.2}, step {:.3} ms, run {:.1} ms, {:.1} tok/s, gap {:.2} %, work {}",
        plan.machine, plan.strategy, plan.prefill_us / 1e3, plan.handoff_us / 1e3, plan.step_us / 1e3, plan.run_us / 1e3,
        plan.tokens_per_second, 100.0 * plan.certificate.gap, plan.certificate.work
    );
    for other in &plan.alternatives {
        println!("    {}: {:?} {:.1} ms {}", other.class, other.strategy, other.run_us / 1e3, other.note);
    }
    for note in &plan.notes { println!("    note {note}"); }
}

#[test]
fn bars() {
    for name in ["h100x8-epyc2", "four-gpus", "h100-tpu-groq576"] {
        for (batch, objective) in [(1, Objective::Latency), (8, Objective::Throughput)] {
            let mut request = Request::new(subject("llama-3-70b", "int8"), batch, 512, 128);
            request.objective = objective;
            let start = std::time::Instant::now();
            match plan(&request, &machine(name)) {
                Ok(plan) => show(&plan),
                Err(error) => println!("{name}: {error}"),
            }
            println!("   {:?}", start.elapsed());
        }
    }
}
