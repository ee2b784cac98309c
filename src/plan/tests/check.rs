//! Every kind of fault in a plan is found and has its code.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::plans::{after, chain, dims, full, load, symbol, two_devices};
use partita_plan::check::check;
use partita_plan::{Plan, Storage};

/// The code of the error after `spoil` has changed the plan with two devices.
fn code(spoil: impl FnOnce(&mut Plan)) -> &'static str {
    let (mut plan, _) = two_devices(["naive", "naive"], false);
    check(&plan).expect("the plan is good before it is spoilt");
    spoil(&mut plan);
    check(&plan).map_or_else(|e| e.code, |_| "accepted")
}

fn value(plan: &Plan, name: &str) -> usize {
    plan.values.iter().position(|v| v.name == name).unwrap()
}

#[test]
fn good_plans_pass() {
    for (plan, _) in [chain("naive"), two_devices(["a", "b"], false), two_devices(["a", "b"], true), full()] {
        let checked = check(&plan).unwrap();
        assert_eq!(checked.roots.len(), plan.values.len());
    }
    check(&Plan::default()).unwrap();
}

#[test]
fn parts_on_their_own() {
    assert_eq!(code(|p| p.devices[0].driver.clear()), "L011");
    assert_eq!(code(|p| p.devices[0].threads = 1 << 20), "L011");
    assert_eq!(code(|p| p.values[0].device = 9), "L013");
    assert_eq!(code(|p| p.values[0].dtype = 99), "L013");
    assert_eq!(code(|p| p.values[0].storage = 99), "L013");
    assert_eq!(code(|p| p.values[0].shape = dims(&[1; 17])), "L014");
    assert_eq!(code(|p| p.values[0].shape = dims(&[-1])), "L014");
    assert_eq!(code(|p| p.values[0].shape = dims(&[i64::MAX])), "L014");
    assert_eq!(code(|p| p.values[0].shape = dims(&[1 << 30, 1 << 30, 1 << 30])), "L014");
    assert_eq!(code(|p| p.values[0].shape = vec![symbol(0)]), "L020");
    assert_eq!(code(|p| p.kernels[0].library.clear()), "L018");
    assert_eq!(code(|p| p.kernels[0].program = None), "L018");
    assert_eq!(code(|p| p.kernels[0].program.as_mut().unwrap().outputs[0] = 77), "L030");
    assert_eq!(code(|p| p.inputs[0].value = 99), "L017");
    assert_eq!(code(|p| p.outputs[1].name = p.outputs[0].name.clone()), "L017");
}

#[test]
fn counts_are_limited() {
    assert_eq!(code(|p| p.symbols = vec![partita_plan::Symbol::default(); 300]), "L010");
    assert_eq!(code(|p| p.queues = vec![p.queues[2].clone(); 5000]), "L040");
}

#[test]
fn weights_and_aliases() {
    assert_eq!(code(|p| p.weight_bytes = 2), "L015");
    assert_eq!(
        code(|p| {
            let w = value(p, "w");
            p.values[w].offset = u64::MAX - 63;
        }),
        "L015"
    );
    assert_eq!(
        code(|p| {
            let w = value(p, "w");
            p.values[w].stored_bytes = 8;
        }),
        "L015"
    );
    assert_eq!(
        code(|p| {
            let y = value(p, "y");
            p.values[y].alias_of = y as u32;
        }),
        "L016"
    );
    assert_eq!(
        code(|p| {
            let y = value(p, "y");
            p.values[y].alias_of = value(p, "a@d1") as u32;
        }),
        "L016"
    );
    assert_eq!(
        code(|p| {
            let y = value(p, "y");
            p.values[y].shape = dims(&[5, 1]);
        }),
        "L016"
    );
}

#[test]
fn queues_and_waits() {
    assert_eq!(code(|p| p.queues[0].device = 7), "L019");
    assert_eq!(code(|p| p.queues[1].device = 0), "L019");
    assert_eq!(code(|p| p.queues[2].from = 1), "L019");
    assert_eq!(code(|p| p.queues[0].steps[0].waits = vec![after(9, 1)]), "L041");
    assert_eq!(code(|p| p.queues[0].steps[0].waits = vec![after(1, 9)]), "L041");
    assert_eq!(code(|p| p.queues[0].steps[0].waits = vec![after(0, 1)]), "L042");
    assert_eq!(code(|p| p.queues[0].steps[0].waits = vec![after(3, 1)]), "L042");
}

#[test]
fn steps() {
    assert_eq!(code(|p| p.queues[0].steps[0].inputs[0] = 99), "L050");
    assert_eq!(code(|p| p.queues[0].steps[0].kernel = 99), "L050");
    assert_eq!(code(|p| p.queues[0].steps[0].outputs.clear()), "L050");
    assert_eq!(code(|p| p.queues[0].steps[1].inputs[0] = value(p, "t") as u32), "L051");
    assert_eq!(code(|p| p.queues[2].steps[0].waits.clear()), "L052");
    assert_eq!(code(|p| p.queues[0].steps[2].waits.clear()), "L052");
    assert_eq!(code(|p| p.queues[1].steps[1].outputs[0] = value(p, "w") as u32), "L053");
    assert_eq!(code(|p| p.queues[0].steps[1].outputs[0] = value(p, "a") as u32), "L053");
    assert_eq!(code(|p| p.queues[0].steps[1].outputs[0] = value(p, "x") as u32), "L053");
    assert_eq!(code(|p| p.queues[0].steps[2].inputs.truncate(1)), "L054");
    assert_eq!(code(|p| p.queues[0].steps[0].inputs[0] = partita_plan::NO_VALUE), "L054");
    assert_eq!(code(|p| p.values[0].dtype = partita_plan::ElementType::I32 as i32), "L054");
    assert_eq!(code(|p| p.queues[2].steps[0].inputs.push(0)), "L056");
    assert_eq!(code(|p| p.queues[0].steps[0].time_us = f64::NAN), "L057");
    assert_eq!(code(|p| p.outputs[0].value = p.values.len() as u32 - 1), "accepted");
}

#[test]
fn an_output_that_nothing_writes() {
    let (mut plan, _) = two_devices(["naive", "naive"], false);
    plan.queues[0].steps.pop();
    assert_eq!(check(&plan).unwrap_err().code, "L052");
}

#[test]
fn arenas() {
    assert_eq!(code(|p| p.devices[0].arena_bytes += 64), "accepted");
    assert_eq!(code(|p| p.devices[0].arena_bytes = 1), "L060");
    assert_eq!(code(|p| p.values[0].offset = 32), "L060");
    assert_eq!(code(|p| p.values[0].offset = u64::MAX - 63), "L060");
    assert_eq!(code(|p| p.devices[0].memory_bytes = 1), "L063");
    assert_eq!(
        code(|p| {
            let (b, c) = (value(p, "b@d0"), value(p, "c"));
            p.values[b].offset = p.values[c].offset;
        }),
        "L061"
    );
    assert_eq!(
        code(|p| {
            let c = value(p, "c");
            p.values[c].last = 1;
        }),
        "L062"
    );
}

#[test]
fn symbols_are_bound_by_the_axis_that_holds_them() {
    let (mut plan, _) = two_devices(["naive", "naive"], true);
    plan.symbols[0].axis = 1;
    assert_eq!(check(&plan).unwrap_err().code, "L012");
    plan.symbols[0] = partita_plan::Symbol { name: "n".into(), input: 4, axis: 0, likely: 1, least: 0 };
    assert_eq!(check(&plan).unwrap_err().code, "L012");
}

/// x -> v0 -> v1 -> v2 -> v3 where v1 is made an alias of v0.
fn in_place() -> Plan {
    let (mut plan, _) = chain("naive");
    let v1 = value(&plan, "v1");
    plan.values[v1].storage = Storage::Alias as i32;
    plan.values[v1].alias_of = value(&plan, "v0") as u32;
    plan.values[v1 - 1].last = 2;
    let size = plan.devices[0].arena_bytes.next_multiple_of(64);
    for (index, value) in plan.values.iter_mut().enumerate() {
        value.offset = index as u64 * size;
    }
    plan.devices[0].arena_bytes = size * 8;
    plan
}

#[test]
fn elementwise_steps_may_write_over_an_operand_of_the_same_type() {
    check(&in_place()).unwrap();
    let mut other_shape = in_place();
    let v1 = value(&other_shape, "v1");
    other_shape.values[v1].shape = dims(&[2, 2]);
    assert_eq!(check(&other_shape).unwrap_err().code, "L055");
    let mut other_kernel = in_place();
    other_kernel.kernels[0] = partita_plan::Kernel { library: "softmax".into(), ..Default::default() };
    assert_eq!(check(&other_kernel).unwrap_err().code, "L055");
}

#[test]
fn what_was_written_over_cannot_be_read_again() {
    let mut plan = in_place();
    plan.queues[0].steps[2].inputs[0] = value(&plan, "v0") as u32;
    assert_eq!(check(&plan).unwrap_err().code, "L052");
    let mut plan = in_place();
    plan.outputs.push(partita_plan::Port { name: "old".into(), value: value(&plan, "v0") as u32 });
    let v0 = value(&plan, "v0");
    plan.values[v0].last = 3;
    assert_eq!(check(&plan).unwrap_err().code, "L052");
}

#[test]
fn program_operations_need_their_lane() {
    let spoil = |p: &mut Plan| {
        let program = p.kernels[0].program.as_mut().unwrap();
        let mut int = load(0);
        int.lane = 1;
        program.instrs.push(int);
        let mut sqrt = common::plans::instr(partita_plan::tile::TileOp::Sqrt, &[5]);
        sqrt.lane = 1;
        program.instrs.push(sqrt);
    };
    assert_eq!(code(spoil), "L030");
}
