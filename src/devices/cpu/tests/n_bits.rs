//! Products with weights of few bits against their definition.

mod common;

use common::{Spec, Tensor, check_f32, noise, refusal};
use partita_plan::ElementType;
use partita_plan::tile::{Lane, TileOp};
use partita_plan::{TileInstr, TileProgram};
use proptest::prelude::*;

fn bytes(count: usize, seed: u64) -> Vec<u8> {
    noise(count, seed).into_iter().map(|v| ((v + 1.0) * 127.9) as u8).collect()
}

fn u8s(shape: &[usize], bytes: Vec<u8>) -> Tensor {
    Tensor { dtype: ElementType::U8, shape: shape.to_vec(), bytes, weight: true }
}

fn number(row: &[u8], at: usize, bits: usize) -> f64 {
    f64::from(if bits == 4 { row[at / 2] >> (at % 2 * 4) & 15 } else { row[at] })
}

/// `x + e1`, with one operand per column.
fn add_bias() -> TileProgram {
    let instr = |op: TileOp, args: &[u32], index| TileInstr {
        op: op as i32,
        lane: Lane::Float as i32,
        args: args.to_vec(),
        index,
        ..TileInstr::default()
    };
    let instrs =
        vec![instr(TileOp::Load, &[], 0), instr(TileOp::Load, &[], 1), instr(TileOp::Add, &[0, 1], 0)];
    TileProgram { inputs: 2, instrs, outputs: vec![2] }
}

#[derive(Clone, Debug)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    bits: usize,
    block: usize,
    zeros: bool,
    bias: bool,
}

impl Case {
    fn spec(&self) -> Spec {
        let own = if self.zeros { 4 } else { 3 };
        Spec::new("gemm_n_bits")
            .int("k", self.k as i64)
            .int("n", self.n as i64)
            .int("bits", self.bits as i64)
            .int("block", self.block as i64)
            .int("n_own", own)
    }

    fn inputs(&self) -> Vec<Option<Tensor>> {
        let blocks = self.k.div_ceil(self.block);
        let (row, zero_row) = (blocks * self.block * self.bits / 8, (blocks * self.bits).div_ceil(8));
        let mut inputs = vec![
            Some(Tensor::noise(&[self.m, self.k], 1)),
            Some(u8s(&[self.n, row], bytes(self.n * row, 2))),
            Some(Tensor::noise(&[self.n, blocks], 3).into_weight()),
        ];
        if self.zeros {
            inputs.push(Some(u8s(&[self.n, zero_row], bytes(self.n * zero_row, 4))));
        }
        inputs
    }

    fn check(&self) {
        let mut inputs = self.inputs();
        let blocks = self.k.div_ceil(self.block);
        let (a, scales) =
            (inputs[0].as_ref().expect("given").values(), inputs[2].as_ref().expect("given").values());
        let bias = noise(self.n, 5);
        let mut want = vec![];
        for i in 0..self.m {
            for j in 0..self.n {
                let row = |operand: usize| {
                    let all = &inputs[operand].as_ref().expect("given").bytes;
                    &all[all.len() / self.n * j..all.len() / self.n * (j + 1)]
                };
                let sum: f64 = (0..self.k)
                    .map(|p| {
                        let block = p / self.block;
                        let zero = if self.zeros {
                            number(row(3), block, self.bits)
                        } else {
                            f64::from(1 << (self.bits - 1))
                        };
                        let value =
                            (number(row(1), p, self.bits) - zero) * f64::from(scales[j * blocks + block]);
                        f64::from(a[i * self.k + p]) * value
                    })
                    .sum();
                want.push(sum + if self.bias { f64::from(bias[j]) } else { 0.0 });
            }
        }
        let mut spec = self.spec();
        if self.bias {
            spec = spec.program(add_bias());
            inputs.push(Some(Tensor::f32(&[self.n], &bias)));
        }
        check_f32(&spec, &inputs, &[self.m, self.n], &want);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn products_match(
        m in 1usize..30, n in 1usize..100, k in 1usize..150, bits in prop::sample::select(vec![4usize, 8]),
        block in prop::sample::select(vec![16usize, 32, 64]), zeros in any::<bool>(), bias in any::<bool>(),
    ) {
        Case { m, n, k, bits, block, zeros, bias }.check();
    }
}

#[test]
fn long_rows_match() {
    for (m, bits) in [(1, 4), (2, 8), (3, 4), (4, 8), (5, 4), (70, 8)] {
        Case { m, n: 130, k: 1000, bits, block: 32, zeros: true, bias: true }.check();
    }
}

#[test]
fn weights_of_other_sizes_are_refused() {
    let case = Case { m: 2, n: 40, k: 64, bits: 4, block: 32, zeros: true, bias: false };
    let out = [(ElementType::F32, vec![2, 40])];
    let other = Case { block: 16, ..case.clone() };
    let message = refusal(&other.spec(), &case.inputs(), &out).to_string();
    assert!(message.contains("R0"), "{message}");
    let mut plain = case.inputs();
    plain[1].as_mut().unwrap().weight = false;
    refusal(&case.spec(), &plain, &out);
}
