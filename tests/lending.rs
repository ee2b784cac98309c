//! Inputs read and outputs written in the caller's memory give what copies give.

use crate::programs::compiled;
use crate::support::{graph, machine};
use partita::pipeline::CompileOptions;
use partita::session::load_compiled;
use partita_ir::op::Rng;
use partita_runtime::Program;

/// A state that grows by a row, something computed from it, and the state itself handed back.
const DECODER: &str = "graph g(%past: f32[2, 128, 64], %x: f32[2, 1, 64]) -> (%present, %y, %same) {
  %present = concat %past, %x {axis = 1}
  %r = relu %past
  %y = add %r, %x
  %same = identity %past
}";

/// A state of fixed size, so that an output can be the next input.
const LOOP: &str = "graph g(%state: f32[64, 128]) -> (%next) {
  const %w: f32[128, 128] = random(1)
  %m = matmul %state, %w
  %next = tanh %m
}";

fn program(text: &str) -> Program {
    let options = CompileOptions { threads: Some(2), ..CompileOptions::default() };
    load_compiled(&compiled(&graph(text).unwrap(), &machine("cpu.toml"), &options).unwrap()).unwrap()
}

/// Floats as aligned bytes.
struct Buffer {
    bytes: Vec<u8>,
    from: usize,
    len: usize,
}

impl Buffer {
    fn random(floats: usize, seed: u64) -> Self {
        let bytes = vec![0; floats * 4 + 64];
        let from = bytes.as_ptr().align_offset(64);
        let mut buffer = Self { bytes, from, len: floats * 4 };
        buffer.fill(seed);
        buffer
    }

    fn fill(&mut self, seed: u64) {
        let tensor = Rng(seed).tensor(partita_ir::DType::F32, &[self.len / 4], -1.0, 1.0);
        self.bytes_mut().copy_from_slice(tensor.bytes());
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[self.from..][..self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.from..][..self.len]
    }
}

const PAST: &[usize] = &[2, 128, 64];
const NEW: &[usize] = &[2, 1, 64];

/// What a session that has never seen these buffers gives.
fn fresh(past: &[u8], x: &[u8]) -> Vec<Vec<u8>> {
    let mut program = program(DECODER);
    let session = program.session().unwrap();
    session.run(&[(past, PAST), (x, NEW)]).unwrap();
    (0..3).map(|index| session.output_vec(index).unwrap()).collect()
}

#[test]
fn inputs_in_the_same_memory_are_read_anew() {
    let mut program = program(DECODER);
    let session = program.session().unwrap();
    let (mut pasts, x) = ([Buffer::random(16384, 1), Buffer::random(16384, 2)], Buffer::random(128, 3));
    // Often one buffer, then two that change places, then bytes that are not aligned.
    for (round, at) in [0, 0, 0, 1, 1, 0, 1, 0, 1].into_iter().enumerate() {
        pasts[at].fill(10 + round as u64);
        let past = pasts[at].bytes();
        session.run(&[(past, PAST), (x.bytes(), NEW)]).unwrap();
        let have: Vec<Vec<u8>> = (0..3).map(|index| session.output_vec(index).unwrap()).collect();
        assert!(have == fresh(past, x.bytes()), "round {round}");
    }
    let odd: Vec<u8> = [&[0u8; 1], pasts[0].bytes()].concat();
    for _ in 0..3 {
        session.run(&[(&odd[1..], PAST), (x.bytes(), NEW)]).unwrap();
        assert!(session.output_vec(1).unwrap() == fresh(&odd[1..], x.bytes())[1]);
    }
}

#[test]
fn outputs_go_to_the_callers_memory() {
    let mut program = program(DECODER);
    let session = program.session().unwrap();
    let (past, x) = (Buffer::random(16384, 1), Buffer::random(128, 3));
    let inputs = [(past.bytes(), PAST), (x.bytes(), NEW)];
    let want = fresh(past.bytes(), x.bytes());
    let mut buffers: Vec<Vec<Buffer>> = (0..2)
        .map(|_| [2 * 129 * 64, 16384, 16384].into_iter().map(|n| Buffer::random(n, 5)).collect())
        .collect();
    for at in [0, 0, 0, 1, 0, 1, 0, 1] {
        let mut outputs: Vec<&mut [u8]> = buffers[at].iter_mut().map(Buffer::bytes_mut).collect();
        outputs.iter_mut().for_each(|bytes| bytes.fill(7));
        session.run_into(&inputs, &mut outputs).unwrap();
        assert!(outputs.iter().zip(&want).all(|(have, want)| *have == want.as_slice()));
        assert_eq!(session.output_vec(0).unwrap_err().code, "R008");
    }
    // Back in the device's own memory.
    session.run(&inputs).unwrap();
    assert!((0..3).all(|index| session.output_vec(index).unwrap() == want[index]));
    let mut short = vec![0u8; 16];
    assert_eq!(session.run_into(&inputs, &mut [&mut short]).unwrap_err().code, "R015");
    session.run(&inputs).unwrap();
}

#[test]
fn two_buffers_take_turns_as_state() {
    let shape: &[usize] = &[64, 128];
    let mut copying = program(LOOP);
    let mut state = Buffer::random(8192, 1).bytes().to_vec();
    let mut program = program(LOOP);
    let session = program.session().unwrap();
    let (mut from, mut to) = (Buffer::random(8192, 1), Buffer::random(8192, 2));
    for _ in 0..9 {
        let copied = copying.session().unwrap();
        copied.run(&[(&state.clone(), shape)]).unwrap();
        state = copied.output_vec(0).unwrap();
        session.run_into(&[(from.bytes(), shape)], &mut [to.bytes_mut()]).unwrap();
        std::mem::swap(&mut from, &mut to);
        assert!(from.bytes() == state.as_slice());
    }
}
