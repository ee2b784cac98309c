//! Evaluation of operators over any values: tensors of numbers and text, sequences, optionals, maps, and bodies.

use crate::diag::Diag;
use crate::op::{EvalCtx, InferCtx, OpRef, Operand};
use crate::tensor::{Tensor, n_elements, share_tables};
use crate::types::{Content, Type};
use crate::{Attrs, Datum};

/// Runs the bodies of a node: what `if`, `loop` and `scan` are evaluated with.
pub trait Bodies {
    /// Runs the body that is attribute `name` on its `inputs`, formal and captured ones, and returns its outputs.
    ///
    /// # Errors
    /// What the body's operators say, or `X030` when a limit of steps, time or memory is reached.
    fn run(&self, name: &str, inputs: Vec<Datum>) -> Result<Vec<Datum>, Diag>;

    /// Accounts for bytes that the operator keeps from one run of a body to the next.
    ///
    /// # Errors
    /// `X035` when the limit of memory is reached.
    fn hold(&self, bytes: usize) -> Result<(), Diag>;

    /// Asks whether a result of so many bytes may be made; it is accounted for when it is there.
    ///
    /// # Errors
    /// `X035` when the limit of memory would be reached.
    fn room(&self, bytes: usize) -> Result<(), Diag>;
}

/// For operators without bodies.
pub struct NoBodies;

impl Bodies for NoBodies {
    fn run(&self, name: &str, _: Vec<Datum>) -> Result<Vec<Datum>, Diag> {
        Err(Diag::new("X031", format!("there is no body {name} here")))
    }

    fn hold(&self, _: usize) -> Result<(), Diag> {
        Ok(())
    }

    fn room(&self, _: usize) -> Result<(), Diag> {
        Ok(())
    }
}

/// What the evaluation of an operator over any values is given.
pub struct DataCtx<'a> {
    pub attrs: &'a Attrs,
    /// `None` for an omitted optional operand.
    pub inputs: &'a [Option<&'a Datum>],
    pub n_outputs: usize,
    pub bodies: &'a dyn Bodies,
}

/// Evaluates `op` on any values.
///
/// # Errors
/// `X032` when an operator over tensors is given anything else; what the operator says.
pub fn evaluate(op: OpRef, ctx: &DataCtx) -> Result<Vec<Datum>, Diag> {
    if let Some(data) = op.data {
        check_arity(op, ctx.inputs.len(), ctx.n_outputs)?;
        return data(ctx);
    }
    let mut tensors: Vec<Option<Tensor>> = Vec::with_capacity(ctx.inputs.len());
    for (n, input) in ctx.inputs.iter().enumerate() {
        tensors.push(match input {
            None => None,
            Some(Datum::Tensor(tensor)) => Some(tensor.clone()),
            Some(other) => {
                let text = format!("operand {n} of {} must be a tensor, it is {}", op.name, other.kind());
                return Err(Diag::new("X032", text).hint("take the tensor out of it first"));
            }
        });
    }
    ctx.bodies.room(result_bytes(op, ctx, &tensors))?;
    Ok(evaluate_tensors(op, ctx.attrs, &mut tensors, ctx.n_outputs)?.into_iter().map(Datum::Tensor).collect())
}

/// Bytes of the results as far as inference tells them before they are made: operands may ask for any size.
fn result_bytes(op: OpRef, ctx: &DataCtx, tensors: &[Option<Tensor>]) -> usize {
    let known: Vec<Option<(Type, Content)>> = tensors
        .iter()
        .map(|t| t.as_ref().map(|t| (Type::known(t.dtype(), t.shape()), Content::Const(t.clone()))))
        .collect();
    let inputs: Vec<Option<Operand>> =
        known.iter().map(|o| o.as_ref().map(|(ty, c)| Operand { ty, content: Some(c) })).collect();
    let inferred = (op.infer)(&InferCtx { attrs: ctx.attrs, inputs: &inputs, n_outputs: ctx.n_outputs });
    let bytes = |ty: &Type| {
        let n = ty.known_shape().and_then(|shape| n_elements(&shape));
        n.map_or(0, |n| n.saturating_mul(ty.dtype.size_bytes()))
    };
    // What inference refuses, evaluation refuses with its own letter.
    inferred.map_or(0, |types| types.iter().map(bytes).fold(0, usize::saturating_add))
}

/// Plans and callers are not trusted to give as many operands as the operator reads.
fn check_arity(op: OpRef, n_inputs: usize, n_outputs: usize) -> Result<(), Diag> {
    if (op.inputs.min..=op.inputs.max).contains(&n_inputs) && n_outputs <= op.outputs.max {
        return Ok(());
    }
    Err(Diag::new(
        "X037",
        format!("{} is given {n_inputs} operands and asked for {n_outputs} results", op.name),
    ))
}

/// Evaluates an operator over tensors. Text is given one table for all operands, and results share it.
///
/// # Errors
/// What the operator says.
pub fn evaluate_tensors(
    op: OpRef,
    attrs: &Attrs,
    tensors: &mut [Option<Tensor>],
    n_outputs: usize,
) -> Result<Vec<Tensor>, Diag> {
    check_arity(op, tensors.len(), n_outputs)?;
    let table = share_tables(&mut tensors.iter_mut().flatten().collect::<Vec<_>>());
    let inputs: Vec<Option<&Tensor>> = tensors.iter().map(Option::as_ref).collect();
    let results = (op.eval)(&EvalCtx { attrs, inputs: &inputs, n_outputs })?;
    let named = |t: Tensor| match t.table() {
        None => t.with_table(table.clone()),
        Some(_) => t,
    };
    Ok(results.into_iter().map(named).collect())
}
