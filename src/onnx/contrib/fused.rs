//! Convolutions and products with what exporters fuse into them: transpositions, a factor, a sum, an activation.

use super::{Steps, all_taken, need, output, take_float, take_int, take_str, wrong_kind};
use crate::call::Call;
use partita_ir::{Attr, Diag, ValueId};

type Made = Result<Vec<ValueId>, Diag>;

/// An activation with parameters in the order `alpha`, `beta`, `gamma` (`Clip`: least, greatest).
struct Activation {
    name: String,
    params: Vec<Option<f32>>,
}

/// Activations and their attributes.
const ACTIVATIONS: &[(&str, &[&str])] = &[
    ("Celu", &["alpha"]),
    ("Elu", &["alpha"]),
    ("Gelu", &[]),
    ("HardSigmoid", &["alpha", "beta"]),
    ("HardSwish", &[]),
    ("LeakyRelu", &["alpha"]),
    ("Mish", &[]),
    ("Relu", &[]),
    ("Selu", &["alpha", "gamma"]),
    ("Sigmoid", &[]),
    ("Softplus", &[]),
    ("Softsign", &[]),
    ("Tanh", &[]),
    ("ThresholdedRelu", &["alpha"]),
];

impl Activation {
    /// The activation of `x` under the name `output`.
    fn apply(&self, x: ValueId, s: &mut Steps, output: &str) -> Result<ValueId, Diag> {
        if self.name == "Clip" {
            return self.clip(x, s, output);
        }
        let Some((op, names)) = ACTIVATIONS.iter().find(|(op, _)| *op == self.name) else {
            return Err(Diag::new("U001", format!("activation {:?} is not supported", self.name))
                .hint("export the model without fused activations"));
        };
        let attrs = names
            .iter()
            .zip(&self.params)
            .filter_map(|(name, value)| value.map(|v| (*name, Attr::Float(v))))
            .collect();
        s.named(op, &[x], attrs, output)
    }

    fn clip(&self, x: ValueId, s: &mut Steps, output: &str) -> Result<ValueId, Diag> {
        let dtype = s.dtype(x);
        let param = |n: usize| self.params.get(n).copied().flatten();
        let mut bounds = Vec::new();
        for (n, what) in [(0, "min"), (1, "max")] {
            bounds.push(param(n).map(|v| s.number(what, dtype, f64::from(v))).transpose()?);
        }
        Ok(s.last("Clip", &[Some(x), bounds[0], bounds[1]], vec![], &[output.to_owned()])?[0])
    }
}

/// `activation` with `activation_params`; nothing when none is stated.
fn listed(call: &mut Call) -> Result<Option<Activation>, Diag> {
    let params = match call.attrs.remove("activation_params") {
        None => Vec::new(),
        Some(Attr::Floats(v)) => v.into_iter().map(Some).collect(),
        Some(_) => return Err(wrong_kind("activation_params")),
    };
    let name = take_str(call, "activation")?.filter(|n| !n.is_empty());
    Ok(name.map(|name| Activation { name, params }))
}

/// `activation` with `activation_alpha`, `activation_beta` and `activation_gamma`.
fn stated(call: &mut Call) -> Result<Option<Activation>, Diag> {
    let mut param = |name: &str| -> Result<Option<f32>, Diag> {
        let given = call.attrs.contains_key(name);
        Ok(Some(take_float(call, name, 0.0)?).filter(|_| given))
    };
    let [alpha, beta, gamma] =
        [param("activation_alpha")?, param("activation_beta")?, param("activation_gamma")?];
    param("activation_axis").ok();
    let name = take_str(call, "activation")?.filter(|n| !n.is_empty());
    let params = match name.as_deref() {
        Some("Selu") => vec![alpha, gamma],
        _ => vec![alpha, beta],
    };
    Ok(name.map(|name| Activation { name, params }))
}

/// activation(conv(x, w) + bias + z).
pub(super) fn conv(call: &mut Call, s: &mut Steps) -> Made {
    let activation = listed(call)?;
    let sum = call.input(3);
    call.inputs.truncate(3);
    let y = match (&activation, sum) {
        (None, None) => return s.rename(call, "Conv"),
        _ => s.hidden(call, "Conv")?,
    };
    match (sum, activation) {
        (Some(z), None) => Ok(vec![s.named("Add", &[y, z], vec![], output(call, 0))?]),
        (Some(z), Some(activation)) => {
            let y = s.node("Add", &[y, z], vec![])?;
            Ok(vec![activation.apply(y, s, output(call, 0))?])
        }
        (None, Some(activation)) => Ok(vec![activation.apply(y, s, output(call, 0))?]),
        (None, None) => Ok(vec![y]),
    }
}

/// activation(alpha * a' * b' + beta * c).
pub(super) fn gemm(call: &mut Call, s: &mut Steps) -> Made {
    let Some(activation) = stated(call)? else { return s.rename(call, "Gemm") };
    let y = s.hidden(call, "Gemm")?;
    Ok(vec![activation.apply(y, s, output(call, 0))?])
}

/// Pads that are an operand become the attribute.
pub(super) fn conv_transpose(call: &mut Call, s: &mut Steps) -> Made {
    if let Some(pads) = call.input(2) {
        let known = s.emit.builder.graph().as_const(pads).map(|t| t.to_i64s()).ok_or_else(|| {
            Diag::new("U010", "the pads of the transposed convolution depend on data")
                .hint("make the operand that holds them a constant")
        })?;
        call.attrs.insert("pads".to_owned(), Attr::Ints(known));
    }
    if call.inputs.len() > 2 {
        call.inputs.remove(2);
    }
    s.rename(call, "ConvTranspose")
}

/// Where the axes of a product's operand come from. `batch` moves the first axis behind the batch axes, `flip`
/// exchanges the last two; vectors stay.
fn arrangement(rank: usize, flip: bool, batch: bool) -> Vec<usize> {
    let mut perm: Vec<usize> = (0..rank).collect();
    if batch && rank > 2 {
        perm = (1..rank - 1).chain([0, rank - 1]).collect();
    }
    if flip && rank > 1 {
        perm.swap(rank - 1, rank - 2);
    }
    perm
}

/// The product with transpositions, before the factor; and the factor.
fn product(call: &mut Call, s: &mut Steps) -> Result<(ValueId, ValueId, f32), Diag> {
    let mut sides = Vec::new();
    for (n, flip, batch) in [(0, "transA", "transBatchA"), (1, "transB", "transBatchB")] {
        let x = need(call, n)?;
        let (flip, batch) = (take_int(call, flip, 0)? != 0, take_int(call, batch, 0)? != 0);
        let perm = arrangement(s.rank(x), flip, batch);
        sides.push(s.transpose(x, perm)?);
    }
    Ok((sides[0], sides[1], take_float(call, "alpha", 1.0)?))
}

/// alpha * a' * b'.
pub(super) fn matmul(call: &mut Call, s: &mut Steps) -> Made {
    let (a, b, alpha) = product(call, s)?;
    all_taken(call, 2)?;
    if alpha == 1.0 {
        return Ok(vec![s.named("MatMul", &[a, b], vec![], output(call, 0))?]);
    }
    let y = s.node("MatMul", &[a, b], vec![])?;
    let factor = s.number("alpha", s.dtype(y), f64::from(alpha))?;
    Ok(vec![s.named("Mul", &[y, factor], vec![], output(call, 0))?])
}

/// activation(alpha * a' * b').
pub(super) fn matmul_activation(call: &mut Call, s: &mut Steps) -> Made {
    let activation = stated(call)?;
    let Some(activation) = activation else { return matmul(call, s) };
    let (a, b, alpha) = product(call, s)?;
    all_taken(call, 2)?;
    let mut y = s.node("MatMul", &[a, b], vec![])?;
    if alpha != 1.0 {
        let factor = s.number("alpha", s.dtype(y), f64::from(alpha))?;
        y = s.node("Mul", &[y, factor], vec![])?;
    }
    Ok(vec![activation.apply(y, s, output(call, 0))?])
}

#[cfg(test)]
mod tests {
    use super::arrangement;

    #[test]
    fn axes_of_a_product() {
        assert_eq!(arrangement(1, true, true), [0]);
        assert_eq!(arrangement(3, true, false), [0, 2, 1]);
        assert_eq!(arrangement(4, false, true), [1, 2, 0, 3]);
        assert_eq!(arrangement(4, true, true), [1, 2, 3, 0]);
    }
}
