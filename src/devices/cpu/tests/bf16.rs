//! Products with weights in bfloat16: both operands rounded, sums in f32.

mod common;

use common::{Spec, Tensor, check_f32};
use half::bf16;
use partita_plan::tile::{Lane, TileOp};
use partita_plan::{TileInstr, TileProgram};
use proptest::prelude::*;

fn rounded(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(bf16::from_f32(v).to_f32())).collect()
}

/// Adds operand 1.
fn add() -> TileProgram {
    let instr = |op: TileOp, index: u32, args: &[u32]| TileInstr {
        op: op as i32,
        lane: Lane::Float as i32,
        index,
        args: args.to_vec(),
        ..TileInstr::default()
    };
    TileProgram {
        inputs: 2,
        instrs: vec![
            instr(TileOp::Load, 0, &[]),
            instr(TileOp::Load, 1, &[]),
            instr(TileOp::Add, 0, &[0, 1]),
        ],
        outputs: vec![2],
    }
}

fn product(m: usize, n: usize, k: usize, trans_a: bool) {
    let a = Tensor::noise(&if trans_a { [k, m] } else { [m, k] }, 1);
    let (b, bias) = (Tensor::noise(&[k, n], 2), Tensor::noise(&[n], 3));
    let (av, bv, extra) = (rounded(&a.values()), rounded(&b.values()), bias.values());
    let at = |i: usize, p: usize| if trans_a { p * m + i } else { i * k + p };
    let mut want = vec![];
    for i in 0..m {
        for j in 0..n {
            let sum: f64 = (0..k).map(|p| av[at(i, p)] * bv[p * n + j]).sum();
            want.push(sum + f64::from(extra[j]));
        }
    }
    let spec = Spec::new("gemm").int("trans_a", trans_a.into()).int("n_own", 2);
    let spec = spec.string("precision", "bf16").program(add());
    check_f32(&spec, &[Some(a), Some(b.into_weight()), Some(bias)], &[m, n], &want);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn products_match(m in 1usize..40, n in 1usize..140, k in 1usize..70, trans_a in any::<bool>()) {
        product(m, n, k, trans_a);
    }
}

#[test]
fn large_products_match() {
    for (m, n, k) in [(150, 200, 1031), (1, 700, 513), (3, 300, 64), (30, 33, 3000)] {
        product(m, n, k, false);
    }
}
