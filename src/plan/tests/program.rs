//! Programs: what is wrong with one has a code; what passes the check has every slot filled before it is read.

#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

use partita_plan::check::{check, check_all};
use partita_plan::program::{Bind, Block, BodyUse, Constant, ConstantUse, Item, Program, SlotPort};
use partita_plan::{Kernel, NO_VALUE, Plan};

fn port(slot: u32) -> SlotPort {
    SlotPort { name: format!("p{slot}"), slot, ..Default::default() }
}

fn host(inputs: Vec<u32>, outputs: Vec<u32>, bodies: Vec<BodyUse>) -> Item {
    let kernel = Some(Kernel { library: "reference".into(), ..Default::default() });
    Item { name: "node".into(), kernel, inputs, outputs, bodies, plan: NO_VALUE, ..Default::default() }
}

fn body(block: u32) -> BodyUse {
    BodyUse { name: "body".into(), block }
}

/// Block 0 runs an operator with block 1 as its body.
fn good() -> Plan {
    let main = Block {
        slots: 3,
        inputs: vec![port(0)],
        constants: vec![ConstantUse { slot: 1, constant: 0 }],
        items: vec![host(vec![0, 1, NO_VALUE], vec![2], vec![body(1)])],
        outputs: vec![port(2)],
        ..Default::default()
    };
    let inner = Block { slots: 1, inputs: vec![port(0)], outputs: vec![port(0)], ..Default::default() };
    let program = Program {
        blocks: vec![main, inner],
        constants: vec![Constant { shape: vec![2], ..Default::default() }],
        symbols: vec!["n".into()],
        ..Default::default()
    };
    Plan { name: "p".into(), weight_bytes: 64, program: Some(program), ..Default::default() }
}

fn code(spoil: impl FnOnce(&mut Program)) -> &'static str {
    let mut plan = good();
    spoil(plan.program.as_mut().unwrap());
    check_all(&plan).map_or_else(|e| e.code, |_| "accepted")
}

#[test]
fn a_good_program_passes_and_is_no_static_plan() {
    assert!(check_all(&good()).unwrap().is_empty());
    assert_eq!(check(&good()).unwrap_err().code, "L012");
}

#[test]
fn each_fault_has_its_code() {
    assert_eq!(code(|p| p.blocks.clear()), "L070");
    assert_eq!(code(|p| p.plans.push(Plan::default())), "L070");
    assert_eq!(code(|p| p.blocks[0].items[0].kernel = None), "L070");
    assert_eq!(code(|p| p.blocks[0].items[0].inputs[0] = 2), "L071");
    assert_eq!(code(|p| p.blocks[0].items[0].outputs[0] = 0), "L071");
    assert_eq!(code(|p| p.blocks[0].items[0].outputs[0] = 9), "L071");
    assert_eq!(code(|p| p.blocks[0].outputs[0].slot = 7), "L071");
    assert_eq!(code(|p| p.blocks[0].inputs[0].form = 99), "L071");
    assert_eq!(code(|p| p.blocks[0].constants[0].constant = 1), "L072");
    assert_eq!(code(|p| p.constants[0].offset = 60), "L072");
    assert_eq!(code(|p| p.constants[0].dtype = 99), "L072");
    assert_eq!(code(|p| p.blocks[0].items[0].bodies[0].block = 0), "L073");
    assert_eq!(code(|p| p.blocks[0].items[0].bodies[0].block = 2), "L073");
    let bind = Bind { symbol: 1, ..Default::default() };
    assert_eq!(code(|p| p.blocks[0].items[0].binds.push(bind)), "L074");
}

#[test]
fn bodies_nest_to_a_limit() {
    let deep = |n: u32| {
        let block = |at: u32| Block {
            slots: 1,
            items: vec![host(vec![], vec![0], if at + 1 < n { vec![body(at + 1)] } else { vec![] })],
            outputs: vec![port(0)],
            ..Default::default()
        };
        code(|p| p.blocks = (0..n).map(block).collect())
    };
    assert_eq!(deep(32), "accepted");
    assert_eq!(deep(33), "L073");
}
