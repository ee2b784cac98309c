//! GGUF: magic, version, counts, key-value pairs, tensor descriptions. Weights behind them are not touched.
//!
//! The layout is that of the specification in the ggml repository (docs/gguf.md), versions 2 and 3, little endian.

use std::io::{Read, Seek};

use super::{FileModel, MAX_RANK, MAX_TENSORS, MAX_TEXT_BYTES, Source, TensorInfo, broken, from_tensors};
use crate::error::ShardError;
use crate::spec::{Family, ModelSpec};

/// Most key-value pairs.
const MAX_PAIRS: u64 = 1 << 16;

/// Most elements of an array that is walked through (vocabularies with scores and merges).
const MAX_ELEMENTS: u64 = 1 << 24;

/// Deepest array of arrays.
const MAX_DEPTH: u32 = 4;

/// Bytes and weights of a block by type number, with the name of the format.
const TYPES: &[(u32, f64, f64, &str)] = &[
    (0, 4.0, 1.0, "fp32"),
    (1, 2.0, 1.0, "fp16"),
    (2, 18.0, 32.0, "q4_0"),
    (3, 20.0, 32.0, "q4_1"),
    (6, 22.0, 32.0, "q5_0"),
    (7, 24.0, 32.0, "q5_1"),
    (8, 34.0, 32.0, "q8_0"),
    (9, 36.0, 32.0, "q8_0"),
    (10, 84.0, 256.0, "q2_k"),
    (11, 110.0, 256.0, "q3_k"),
    (12, 144.0, 256.0, "q4_k"),
    (13, 176.0, 256.0, "q5_k"),
    (14, 210.0, 256.0, "q6_k"),
    (15, 292.0, 256.0, "q8_0"),
    (16, 66.0, 256.0, "iq2_xxs"),
    (17, 74.0, 256.0, "iq2_xs"),
    (18, 98.0, 256.0, "iq3_xxs"),
    (19, 50.0, 256.0, "iq1_s"),
    (20, 18.0, 32.0, "iq4_nl"),
    (21, 110.0, 256.0, "iq3_s"),
    (22, 82.0, 256.0, "iq2_s"),
    (23, 136.0, 256.0, "iq4_xs"),
    (24, 1.0, 1.0, "int8"),
    (25, 2.0, 1.0, "int8"),
    (26, 4.0, 1.0, "int8"),
    (27, 8.0, 1.0, "int8"),
    (28, 8.0, 1.0, "fp32"),
    (29, 56.0, 256.0, "iq1_m"),
    (30, 2.0, 1.0, "bf16"),
    (34, 54.0, 256.0, "tq1_0"),
    (35, 66.0, 256.0, "tq2_0"),
    (39, 17.0, 32.0, "mxfp4"),
];

/// A value, as far as it is of use.
enum Value {
    Number(f64),
    Text(String),
    Array(u64),
    Other,
}

/// What the pairs say.
#[derive(Default)]
struct Pairs {
    numbers: Vec<(String, f64)>,
    architecture: Option<String>,
    words: u64,
}

pub(super) fn read<R: Read + Seek>(source: &mut Source<R>) -> Result<FileModel, ShardError> {
    source.skip(4)?;
    let version = u32::from_le_bytes(source.array()?);
    if !(2..=3).contains(&version) {
        return Err(broken(format!("GGUF version {version}; 2 and 3 are read")));
    }
    let tensors = u64::from_le_bytes(source.array()?);
    let pairs = u64::from_le_bytes(source.array()?);
    if tensors > MAX_TENSORS || pairs > MAX_PAIRS {
        return Err(broken(format!("{tensors} tensors and {pairs} pairs are beyond the limits")));
    }
    let mut known = Pairs::default();
    for _ in 0..pairs {
        pair(source, &mut known)?;
    }
    let list = (0..tensors).map(|_| tensor(source)).collect::<Result<Vec<_>, _>>()?;
    let has_head = list.iter().any(|tensor| tensor.name == "output.weight");
    from_tensors("gguf", &list, known.spec(has_head))
}

fn pair<R: Read + Seek>(source: &mut Source<R>, known: &mut Pairs) -> Result<(), ShardError> {
    let key = text(source)?.ok_or_else(|| broken("a key is longer than any key"))?;
    let kind = u32::from_le_bytes(source.array()?);
    match value(source, kind, 0)? {
        Value::Number(number) => known.numbers.push((key, number)),
        Value::Text(word) if key == "general.architecture" => known.architecture = Some(word),
        Value::Array(count) if key == "tokenizer.ggml.tokens" => known.words = count,
        Value::Text(_) | Value::Array(_) | Value::Other => {}
    }
    Ok(())
}

/// A text; `None` when it is longer than is of use, and then it is skipped.
fn text<R: Read + Seek>(source: &mut Source<R>) -> Result<Option<String>, ShardError> {
    let length = u64::from_le_bytes(source.array()?);
    if length > MAX_TEXT_BYTES {
        source.skip(length)?;
        return Ok(None);
    }
    let bytes = source.bytes(length)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

fn value<R: Read + Seek>(source: &mut Source<R>, kind: u32, depth: u32) -> Result<Value, ShardError> {
    Ok(match kind {
        0 => Value::Number(f64::from(u8::from_le_bytes(source.array()?))),
        1 => Value::Number(f64::from(i8::from_le_bytes(source.array()?))),
        2 => Value::Number(f64::from(u16::from_le_bytes(source.array()?))),
        3 => Value::Number(f64::from(i16::from_le_bytes(source.array()?))),
        4 => Value::Number(f64::from(u32::from_le_bytes(source.array()?))),
        5 => Value::Number(f64::from(i32::from_le_bytes(source.array()?))),
        6 => Value::Number(f64::from(f32::from_le_bytes(source.array()?))),
        7 => {
            source.skip(1)?;
            Value::Other
        }
        8 => text(source)?.map_or(Value::Other, Value::Text),
        9 => array(source, depth)?,
        10 => Value::Number(u64::from_le_bytes(source.array()?) as f64),
        11 => Value::Number(i64::from_le_bytes(source.array()?) as f64),
        12 => Value::Number(f64::from_le_bytes(source.array()?)),
        other => return Err(broken(format!("a value of unknown type {other}"))),
    })
}

fn array<R: Read + Seek>(source: &mut Source<R>, depth: u32) -> Result<Value, ShardError> {
    let kind = u32::from_le_bytes(source.array()?);
    let count = u64::from_le_bytes(source.array()?);
    if count > MAX_ELEMENTS || depth >= MAX_DEPTH {
        return Err(broken(format!("an array of {count} elements, {depth} deep, is beyond the limits")));
    }
    let width = match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    };
    match width {
        Some(width) => source.skip(width * count)?,
        None => {
            for _ in 0..count {
                value(source, kind, depth + 1)?;
            }
        }
    }
    Ok(Value::Array(count))
}

fn tensor<R: Read + Seek>(source: &mut Source<R>) -> Result<TensorInfo, ShardError> {
    let name = text(source)?.ok_or_else(|| broken("the name of a tensor is longer than any name"))?;
    let rank = u32::from_le_bytes(source.array()?);
    if u64::from(rank) > MAX_RANK {
        return Err(broken(format!("tensor {name:?} has {rank} dimensions")));
    }
    let mut shape = Vec::new();
    for _ in 0..rank {
        shape.push(u64::from_le_bytes(source.array()?));
    }
    shape.reverse();
    let kind = u32::from_le_bytes(source.array()?);
    source.skip(8)?;
    let row = TYPES.iter().find(|row| row.0 == kind);
    let Some(&(_, bytes, weights, format)) = row else {
        return Err(broken(format!("tensor {name:?} is of unknown type {kind}")));
    };
    Ok(TensorInfo { name, shape, bits: 8.0 * bytes / weights, format })
}

impl Pairs {
    fn number(&self, key: &str) -> Option<u64> {
        let architecture = self.architecture.as_deref()?;
        let full = format!("{architecture}.{key}");
        let found = self.numbers.iter().find(|(name, _)| *name == full)?.1;
        (found.is_finite() && (0.0..1e15).contains(&found)).then_some(found as u64)
    }

    /// The architecture the pairs state, if they state enough.
    fn spec(&self, has_head: bool) -> Option<ModelSpec> {
        let hidden = self.number("embedding_length")?;
        let heads = self.number("attention.head_count")?;
        let kv_heads = self.number("attention.head_count_kv").unwrap_or(heads);
        let head_dim = self.number("attention.key_length").or_else(|| hidden.checked_div(heads))?;
        let experts = self.number("expert_count").unwrap_or(0).max(1);
        let expert_ffn = self.number("expert_feed_forward_length");
        let ffn = expert_ffn.filter(|_| experts > 1).or_else(|| self.number("feed_forward_length"))?;
        let name = self.architecture.clone().unwrap_or_default();
        let plain = matches!(name.as_str(), "gpt2" | "bert" | "starcoder" | "falcon" | "phi2");
        Some(ModelSpec {
            id: name.clone(),
            name,
            family: Family::Decoder,
            layers: self.number("block_count")?,
            hidden,
            heads,
            kv_heads,
            head_dim,
            ffn,
            gated_ffn: !plain,
            vocab: self.number("vocab_size").unwrap_or(self.words),
            experts,
            top_k: self.number("expert_used_count").unwrap_or(1).max(1),
            tied_embeddings: !has_head,
            biases: plain,
            has_head: true,
            context: self.number("context_length").unwrap_or(0),
            evaluations: 1,
            source: "metadata of the GGUF file".to_owned(),
            ..ModelSpec::default()
        })
    }
}
