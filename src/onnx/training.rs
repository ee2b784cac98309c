//! Operators that behave differently in training, and those that draw random numbers: how each opset says so.

use crate::adapt::{need, sibling, with_ints};
use crate::call::{Call, Emit};
use partita_ir::{Attr, Diag};

/// Whether a node of opset 6 says that it trains. One that says nothing is taken to be for inference, as converters
/// of such models do.
fn says_training(call: &mut Call) -> bool {
    call.version < 7 && call.attrs.remove("is_test") == Some(Attr::Int(0))
}

/// Before opset 14 training was asked for by more results, and before opset 9 every feature could have its own
/// statistics.
///
/// # Errors
/// `V002` for a missing operand, and from nodes that are added.
pub(crate) fn batch_norm_mode(mut call: Call, emit: &mut Emit) -> Result<Call, Diag> {
    let says_training = says_training(&mut call);
    let own_features = call.version < 9 && call.attrs.remove("spatial") == Some(Attr::Int(0));
    let wanted = call.outputs.iter().skip(1).any(|name| !name.is_empty());
    if says_training || wanted {
        call.attrs.insert("training_mode".to_owned(), Attr::Int(1));
        if own_features {
            call.attrs.insert("per_feature".to_owned(), Attr::Int(1));
        }
        return Ok(call);
    }
    call.outputs.truncate(1);
    let x = need(&call, 0)?;
    if !own_features || emit.ranked(x)? < 3 {
        return Ok(call);
    }
    // With known statistics that is the same over one channel per feature.
    let shape = emit.step(sibling(&call, &[x]), "Shape")?;
    let mut flatten = sibling(&call, &[x]);
    flatten.attrs.insert("axis".to_owned(), Attr::Int(1));
    call.set_input(0, emit.step(flatten, "Flatten")?);
    for operand in 1..5 {
        let weight = need(&call, operand)?;
        let flat = with_ints(sibling(&call, &[weight]), "Reshape", "shape", vec![-1], emit)?;
        call.set_input(operand, emit.step(flat, "Reshape")?);
    }
    let mut back = sibling(&call, &[]);
    back.outputs = std::mem::take(&mut call.outputs);
    let y = emit.step(call, "BatchNormalization")?;
    back.inputs = vec![Some(y), Some(shape)];
    "Reshape".clone_into(&mut back.op_type);
    Ok(back)
}

/// Before opset 12 only opset 6 could train, and before opset 10 the mask had the type of the data.
///
/// # Errors
/// `V002` for a missing operand.
pub(crate) fn dropout_mode(mut call: Call, emit: &mut Emit) -> Result<Call, Diag> {
    let trains = says_training(&mut call);
    if trains {
        call.attrs.insert("training_mode".to_owned(), Attr::Int(1));
    }
    if trains || call.input(2).is_some() {
        let seed = seed_of(&call.name);
        call.attrs.entry("seed".to_owned()).or_insert(Attr::Int(seed));
    }
    if call.version < 10 && call.outputs.len() > 1 {
        let code = crate::dtypes::code_of(emit.ty(need(&call, 0)?).dtype);
        call.attrs.insert("mask_dtype".to_owned(), Attr::Int(code.into()));
    }
    Ok(call)
}

/// The seed of a node that states none: from its name, so that two such nodes draw different numbers and every
/// import of a model the same ones. It fits 24 bits, so that it is exact as a float.
fn seed_of(name: &str) -> i64 {
    // FNV-1a.
    let hash = name.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    i64::from(hash >> 8)
}

/// A node that draws random numbers always states its seed.
///
/// # Errors
/// None; the type is that of every rule.
pub(crate) fn seeded(mut call: Call, _: &mut Emit) -> Result<Call, Diag> {
    let seed = seed_of(&call.name);
    call.attrs.entry("seed".to_owned()).or_insert(Attr::Float(seed as f32));
    Ok(call)
}
