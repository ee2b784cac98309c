//! Damaged plan files and failing devices: a letter or the same answer, never anything else.

use crate::programs::{compiled, plan_bytes};
use crate::support::{inputs, machine};
use partita::devices::drivers;
use partita::host_kernels::ReferenceKernels;
use partita::pipeline::CompileOptions;
use partita::session::run;
use partita_ir::Tensor;
use partita_models::{MODELS, Size};
use partita_runtime::fault::{Failure, FaultFactory, Faults, Site};
use partita_runtime::{Drivers, Program, SessionOptions};
use std::sync::Arc;

fn tiny(name: &str) -> (Vec<u8>, Vec<Tensor>) {
    let build = MODELS.iter().find(|(n, _)| *n == name).unwrap().1;
    let graph = build(Size::Tiny).unwrap();
    let compiled = compiled(&graph, &machine("cpu.toml"), &CompileOptions::default()).unwrap();
    (plan_bytes(&compiled), inputs(&graph, 1, 2))
}

fn open(bytes: &[u8], drivers: &Drivers) -> Result<Program, String> {
    let options = SessionOptions { threads: Some(1), verify_weights: true, ..Default::default() };
    Program::load(bytes.to_vec(), drivers, Some(&ReferenceKernels), &options).map_err(|e| e.to_string())
}

fn answer(bytes: &[u8], drivers: &Drivers, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
    run(&mut open(bytes, drivers)?, inputs).map_err(|e| e.to_string())
}

fn is_letter(text: &str) -> bool {
    text.starts_with("error ") && text.contains("hint: ")
}

#[test]
fn flipped_bytes_change_no_answer() {
    let (plan, inputs) = tiny("mlp");
    let drivers = drivers();
    let want = answer(&plan, &drivers, &inputs).unwrap();
    let mut accepted = 0;
    for at in 0..plan.len() {
        let mut bytes = plan.clone();
        bytes[at] ^= 1 << (at % 8);
        match answer(&bytes, &drivers, &inputs) {
            Ok(have) => {
                accepted += 1;
                assert!(have == want, "byte {at} changes the answer");
            }
            Err(letter) => assert!(is_letter(&letter), "byte {at}: {letter}"),
        }
    }
    // Padding between weights may change unseen, nothing else.
    assert!(accepted * 2 < plan.len(), "{accepted} of {} flips were not noticed", plan.len());
}

#[test]
fn cut_plans_are_refused() {
    let (plan, _) = tiny("cnn");
    let drivers = drivers();
    for length in (0..plan.len()).step_by(plan.len() / 200 + 1) {
        let letter = open(&plan[..length], &drivers).err();
        assert!(letter.as_deref().is_some_and(is_letter), "{length} bytes: {letter:?}");
    }
    let mut longer = plan.clone();
    longer.extend([0; 64]);
    if let Err(letter) = open(&longer, &drivers) {
        assert!(is_letter(&letter), "{letter}");
    }
}

/// Every call of a device fails once, in both ways; the next run of the same session is right again.
#[test]
fn failing_devices_give_letters_and_recover() {
    let (plan, inputs) = tiny("mlp");
    let faults = Arc::new(Faults::default());
    let cpu = drivers().get("cpu").unwrap().clone();
    let failing = Drivers::new().with(Arc::new(FaultFactory::new(cpu, Arc::clone(&faults))));
    let want = answer(&plan, &failing, &inputs).unwrap();
    for site in [Site::Open, Site::Bind, Site::Upload, Site::Launch, Site::Download, Site::Finish] {
        // Panics are caught while a session runs; devices are opened and outputs are read on the caller's stack.
        let outside = matches!(site, Site::Open | Site::Download);
        let failures = if outside { &[Failure::Error][..] } else { &[Failure::Error, Failure::Panic] };
        for &failure in failures {
            for nth in 0..4 {
                faults.arm(site, nth, failure);
                let before = faults.fired();
                let first = attempt(&plan, &failing, &inputs);
                faults.disarm();
                let fired = faults.fired() > before;
                match first {
                    Ok(have) => assert!(!fired && have == want, "{site:?} {failure:?} {nth}"),
                    Err(letter) => {
                        assert!(fired && is_letter(&letter), "{site:?} {failure:?} {nth}: {letter}");
                    }
                }
            }
        }
    }
}

/// Opens and runs; after a failed run a second one on the same session must succeed.
fn attempt(plan: &[u8], drivers: &Drivers, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
    let mut session = open(plan, drivers)?;
    let first = run(&mut session, inputs).map_err(|e| e.to_string());
    if let Err(letter) = &first {
        run(&mut session, inputs).unwrap_or_else(|e| panic!("{letter}\nthe session does not recover: {e}"));
    }
    first
}
