//! What each fuzz target demands of arbitrary bytes. The same functions run in the tests over the inputs that once
//! failed, so a demand is written once.

#![allow(clippy::panic, reason = "a broken demand is a finding")]
#![allow(unreachable_pub, reason = "the fuzz crate is a library of these functions")]

use partita_ir::interp::{self, Symbols};
use partita_ir::{Budget, Bytes, DType, Datum, Dim, Graph, RunLimits, Tensor, Type, text};
use partita_onnx::{ExportOptions, Limits, Options, load_bytes, save};
use partita_plan::{PLAN_VERSION, PlanFile, check, file};
use std::time::Duration;

/// Limits of a model: small, so that a run is short and refusals are reached.
const LIMITS: Limits = Limits {
    model_bytes: 1 << 20,
    structure_bytes: 1 << 20,
    depth: 96,
    messages: 1 << 14,
    nodes: 1 << 10,
    tensors: 1 << 10,
    name_bytes: 1 << 10,
    dense_bytes: 1 << 22,
    attribute_bytes: 1 << 20,
    elements: 1 << 20,
};

/// Limits of the run of an imported model.
const RUN: RunLimits = RunLimits { steps: 64, bytes: 1 << 22, time: Some(Duration::from_secs(2)) };

/// Most nodes of a graph that is run.
const MAX_RUN_NODES: usize = 32;

/// Most elements of an input of a run.
const MAX_INPUT_ELEMENTS: usize = 1 << 12;

/// The size that every symbol gets in a run.
const SYMBOL_SIZE: i64 = 2;

/// Elements of inputs, over and over: small, so that they serve as sizes, axes and indices as well.
const VALUES: &[f64] = &[1.0, 0.0, 2.0, -1.0, 3.0];

/// Most bytes of a text that is read.
const MAX_TEXT_BYTES: usize = 1 << 14;

/// Most bytes of constants that a text may make.
const MAX_MADE_BYTES: usize = 1 << 20;

/// Most bytes of a weight section that is made up.
const MAX_WEIGHT_BYTES: u64 = 1 << 16;

/// Any bytes as a model: they are refused, or give a graph that can be printed and read back, exported, and run.
pub fn importer(bytes: &[u8]) {
    let options = Options { limits: LIMITS, ..Options::default() };
    let Ok(imported) = load_bytes("fuzz", Bytes::from_vec(bytes.to_vec()), None, &options) else { return };
    let graph = &imported.graph;
    same_text(graph);
    let _ = save(graph, &ExportOptions::of(&imported));
    if graph.n_nodes() <= MAX_RUN_NODES
        && let Some(inputs) = values(graph)
    {
        let _ = interp::run_data(graph, inputs, Symbols::new(), &Budget::new(RUN));
    }
}

/// Any bytes as text: they are refused, or give graphs whose text is a fixed point.
pub fn text(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if text.len() > MAX_TEXT_BYTES {
        return;
    }
    let parsed = text::parse_within(text, &partita_ops::registry(), &text::no_files, MAX_MADE_BYTES);
    let Ok(graphs) = parsed else { return };
    graphs.iter().for_each(same_text);
}

/// Printing, reading and printing again gives the same text.
fn same_text(graph: &Graph) {
    let printed = text::print(graph);
    let read = text::parse(&printed, &partita_ops::registry(), &text::no_files);
    let again: Vec<String> = match read {
        Ok(graphs) => graphs.iter().map(text::print).collect(),
        Err(diag) => panic!("the printed text is refused: {diag}\n{printed}"),
    };
    assert_eq!(again, [printed], "the text changes when it is read");
}

/// Values for every input; `None` when one is large or of a form that has no such value.
fn values(graph: &Graph) -> Option<Vec<Datum>> {
    graph.inputs().iter().map(|v| value(graph.ty(*v))).collect()
}

fn value(ty: &Type) -> Option<Datum> {
    let size =
        |dim: &Dim| usize::try_from(dim.substitute(&|_| Some(Dim::known(SYMBOL_SIZE))).as_known()?).ok();
    let shape: Vec<usize> = ty.shape.iter().map(size).collect::<Option<_>>()?;
    let n = partita_ir::tensor::n_elements(&shape).filter(|n| *n <= MAX_INPUT_ELEMENTS)?;
    let tensor = match ty.dtype {
        DType::Str => Tensor::from_strings(&shape, &vec![String::new(); n]),
        dtype => {
            Tensor::from_f64s(dtype, &shape, &VALUES.iter().cycle().take(n).copied().collect::<Vec<_>>())
        }
    };
    (ty.is_tensor()).then_some(Datum::Tensor(tensor?))
}

/// Any bytes as a plan file, and as the message of one: they are refused, or give a plan that is written and read
/// back as it was; it can be shown, and checking it does not fail otherwise than by a letter.
pub fn plan(bytes: &[u8]) {
    plan_file(bytes);
    let weight_bytes = weight_bytes(bytes).unwrap_or(0);
    if weight_bytes <= MAX_WEIGHT_BYTES {
        plan_file(&sealed(bytes, weight_bytes));
    }
}

fn plan_file(bytes: &[u8]) {
    let Ok(decoded) = PlanFile::decode(bytes) else { return };
    let _ = decoded.verify_weights(bytes);
    let shown = partita_plan::text::to_text(&decoded.plan);
    let Ok(checked) = check::check_all(&decoded.plan) else { return };
    drop(checked);
    let weights = bytes.get(decoded.weights.clone()).unwrap_or_default();
    let Ok(written) = file::encode(&decoded.plan, [(0, weights)]) else {
        panic!("a plan that was read cannot be written");
    };
    let Ok(again) = PlanFile::decode(&written) else { panic!("a plan that was written cannot be read") };
    assert_eq!(partita_plan::text::to_text(&again.plan), shown, "the plan changes when it is written");
}

/// A message as a plan file, with a right header and zeros for weights.
fn sealed(message: &[u8], weight_bytes: u64) -> Vec<u8> {
    let mut bytes = file::MAGIC.to_vec();
    let offset = (file::HEADER_BYTES + message.len()).next_multiple_of(4096);
    bytes.extend(PLAN_VERSION.to_le_bytes());
    bytes.extend(crc(message).to_le_bytes());
    bytes.extend((message.len() as u64).to_le_bytes());
    bytes.extend((offset as u64).to_le_bytes());
    bytes.extend(weight_bytes.to_le_bytes());
    bytes.extend(crc(&vec![0; weight_bytes as usize]).to_le_bytes());
    bytes.resize(60, 0);
    bytes.extend(crc(&bytes).to_le_bytes());
    bytes.extend(message);
    bytes.resize(offset + weight_bytes as usize, 0);
    bytes
}

/// CRC-32 (IEEE 802.3), bit by bit.
fn crc(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

/// Field 10, the bytes of weights, of a plan message.
fn weight_bytes(message: &[u8]) -> Option<u64> {
    let mut rest = message;
    let mut found = None;
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        let skip = match key & 7 {
            0 => {
                let value = varint(&mut rest)?;
                found = (key == 10 << 3).then_some(value).or(found);
                0
            }
            1 => 8,
            2 => usize::try_from(varint(&mut rest)?).ok()?,
            _ => return None,
        };
        rest = rest.get(skip..)?;
    }
    found
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
