//! Types of graph inputs and outputs, and the symbols their dimensions name.

use crate::dtypes::dtype_of;
use crate::typing::inner_type;
use onnx_protobuf::tensor_shape_proto::{Dimension, dimension};
use onnx_protobuf::{TensorShapeProto, ValueInfoProto, type_proto};
use partita_ir::types::Form;
use partita_ir::{DType, Diag, Dim, Type};
use std::collections::{BTreeMap, BTreeSet};

/// Symbols of a model. The same text means the same size, wherever it appears.
#[derive(Default)]
pub(crate) struct Symbols {
    /// What each `dim_param` stands for.
    by_text: BTreeMap<String, Dim>,
    taken: BTreeSet<String>,
    fixed: BTreeMap<String, i64>,
    used: BTreeSet<String>,
}

impl Symbols {
    /// Symbols of which `fixed` have values.
    pub(crate) fn new(fixed: BTreeMap<String, i64>) -> Self {
        Self { fixed, ..Self::default() }
    }

    /// Names that `inputs` state are not invented for other sizes.
    pub(crate) fn avoid(&mut self, inputs: &[ValueInfoProto]) {
        for input in inputs {
            self.taken.extend(dims(input).unwrap_or(&[]).iter().map(|d| d.dim_param().to_owned()));
        }
    }

    fn dim(&mut self, input: &str, axis: usize, dim: &Dimension) -> Result<Dim, Diag> {
        match &dim.value {
            Some(dimension::Value::DimParam(text)) if !text.is_empty() => Ok(self.named(text, input, axis)),
            Some(dimension::Value::DimValue(size)) if *size >= 0 => Ok(Dim::known(*size)),
            // Old exporters write -1 for "unknown".
            None | Some(dimension::Value::DimParam(_) | dimension::Value::DimValue(-1)) => {
                let name = self.fresh(input, axis);
                Ok(self.symbol(&name))
            }
            Some(dimension::Value::DimValue(size)) => {
                let text = format!("dimension {axis} has the size {size}");
                Err(Diag::new("I041", text).at_value(input).hint("the model is damaged; export it again"))
            }
            Some(_) => Err(Diag::new("I041", "a dimension is neither a size nor a name")
                .at_value(input)
                .hint("the model is damaged; export it again")),
        }
    }

    /// A `dim_param`: itself when it is a name, a fresh symbol when it is an expression.
    fn named(&mut self, text: &str, input: &str, axis: usize) -> Dim {
        if let Some(dim) = self.by_text.get(text) {
            return dim.clone();
        }
        let dim = if is_name(text) || self.fixed.contains_key(text) {
            self.symbol(text)
        } else {
            let name = self.fresh(input, axis);
            self.symbol(&name)
        };
        self.by_text.insert(text.to_owned(), dim.clone());
        dim
    }

    fn symbol(&mut self, name: &str) -> Dim {
        self.used.insert(name.to_owned());
        self.fixed.get(name).map_or_else(|| Dim::symbol(name), |&size| Dim::known(size))
    }

    fn fresh(&mut self, input: &str, axis: usize) -> String {
        let clean: String = input.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let lead = if clean.starts_with(|c: char| c.is_ascii_digit()) { "_" } else { "" };
        let mut name = format!("{lead}{clean}_{axis}");
        while !self.taken.insert(name.clone()) {
            name.push('_');
        }
        name
    }

    /// `I023` for every fixed name the model does not have, and for impossible sizes.
    pub(crate) fn unused(&self) -> Vec<Diag> {
        let names: Vec<&str> = self.used.iter().map(String::as_str).collect();
        let known = if names.is_empty() {
            "the model has no symbolic dimension".to_owned()
        } else {
            format!("the model's symbols are {}", names.join(", "))
        };
        let unknown = self.fixed.keys().filter(|name| !self.used.contains(*name));
        let unknown = unknown.map(|n| Diag::new("I023", format!("no dimension is called {n}")).hint(&known));
        let negative = self.fixed.iter().filter(|(_, size)| **size < 0);
        let negative = negative.map(|(n, s)| {
            Diag::new("I023", format!("dimension {n} cannot have the size {s}"))
                .hint("give a size of at least 0")
        });
        unknown.chain(negative).collect()
    }

    /// The type of a graph input.
    ///
    /// # Errors
    /// `I021` without a type, `U003` for one that is not supported.
    pub(crate) fn input_type(&mut self, info: &ValueInfoProto) -> Result<Type, Diag> {
        let here = |d: Diag| d.at_value(&*info.name);
        let Some((code, shape)) = tensor_type(info) else {
            return inner_type(info.type_.as_ref(), false, 0).map_err(here);
        };
        let dtype = dtype_of(code.into()).map_err(here)?;
        let Some(shape) = shape else { return Ok(Type::unranked(dtype)) };
        let dims: Result<Vec<Dim>, Diag> =
            shape.dim.iter().enumerate().map(|(axis, d)| self.dim(&info.name, axis, d)).collect();
        Ok(Type::new(dtype, dims?))
    }
}

fn is_name(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | ':'))
        && !text.starts_with(|c: char| c.is_ascii_digit() || c == '-')
}

/// Element type and shape that are declared for a tensor, dense or sparse; `None` for other values.
fn tensor_type(info: &ValueInfoProto) -> Option<(i32, Option<&TensorShapeProto>)> {
    match info.type_.as_ref()?.value.as_ref()? {
        type_proto::Value::TensorType(tensor) => Some((tensor.elem_type, tensor.shape.as_ref())),
        type_proto::Value::SparseTensorType(tensor) => Some((tensor.elem_type, tensor.shape.as_ref())),
        _ => None,
    }
}

/// The element type that is declared for a tensor; `None` when none is.
///
/// # Errors
/// `U003` for one that is not supported, `I041` for one that does not exist.
pub(crate) fn element_type(info: &ValueInfoProto) -> Result<Option<DType>, Diag> {
    let code = tensor_type(info).map(|(code, _)| code).filter(|code| *code != 0);
    code.map(|code| dtype_of(code.into())).transpose().map_err(|d| d.at_value(&*info.name))
}

/// The declared dimensions; `None` when not even their number is known.
fn dims(info: &ValueInfoProto) -> Option<&[Dimension]> {
    tensor_type(info)?.1.map(|s| s.dim.as_slice())
}

/// Compares the type an output declares with the inferred one; what is unknown on either side agrees.
///
/// # Errors
/// `I022` when they contradict each other.
pub(crate) fn check_output(info: &ValueInfoProto, inferred: &Type) -> Result<(), Diag> {
    let differs = |what: String| {
        Diag::new("I022", what).at_value(&*info.name).hint("the model contradicts itself; export it again")
    };
    if info.type_.as_ref().is_none_or(|t| t.value.is_none()) || inferred.form == Form::Any {
        return Ok(());
    }
    let is_tensor = matches!(inferred.form, Form::Tensor | Form::Unranked);
    if !is_tensor || tensor_type(info).is_none() {
        let declared = inner_type(info.type_.as_ref(), false, 0).map_err(|d| d.at_value(&*info.name))?;
        return if agree(&declared, inferred) {
            Ok(())
        } else {
            Err(differs(format!("the output is declared {declared}, it is {inferred}")))
        };
    }
    if let Some(dtype) = element_type(info)?.filter(|dtype| *dtype != inferred.dtype) {
        let text = format!("the output is declared {}, it is {}", dtype.name(), inferred.dtype.name());
        return Err(differs(text));
    }
    let Some(dims) = dims(info).filter(|_| inferred.is_tensor()) else { return Ok(()) };
    let agrees = dims.len() == inferred.rank()
        && dims.iter().zip(&inferred.shape).all(|(declared, dim)| match &declared.value {
            Some(dimension::Value::DimValue(size)) if *size >= 0 => {
                dim.as_known().is_none_or(|known| known == *size)
            }
            _ => true,
        });
    if agrees { Ok(()) } else { Err(differs(format!("the output's declared shape is not {inferred}"))) }
}

/// Whether a value can have both types, as far as forms and element types go.
fn agree(a: &Type, b: &Type) -> bool {
    match (&a.form, &b.form) {
        (Form::Any, _) | (_, Form::Any) => true,
        (Form::Sequence(x), Form::Sequence(y)) | (Form::Optional(x), Form::Optional(y)) => agree(x, y),
        (Form::Map(x), Form::Map(y)) => x == y && a.dtype == b.dtype,
        (Form::Tensor | Form::Unranked, Form::Tensor | Form::Unranked) => a.dtype == b.dtype,
        _ => false,
    }
}
