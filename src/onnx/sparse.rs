//! Sparse tensors: read as dense ones, within a limit, and written from dense ones.

use crate::packed::file_len;
use crate::tensors::{DAMAGED, Store, full, shape_of};
use onnx_protobuf::SparseTensorProto;
use partita_ir::tensor::n_elements;
use partita_ir::{Bytes, DType, Diag, Tensor};

impl Store {
    /// The dense form of a sparse tensor.
    ///
    /// # Errors
    /// `I043` for indices that are not ascending places of the shape, `I007` for a dense form beyond the limit, and
    /// what is wrong with one of its tensors.
    pub(crate) fn sparse(&mut self, proto: &SparseTensorProto) -> Result<Tensor, Diag> {
        let missing = |what: &str| bad(format!("the sparse tensor has no {what}"));
        let values = proto.values.as_ref().ok_or_else(|| missing("values"))?;
        let name = values.name.clone();
        let indices = proto.indices.as_ref();
        self.dense(&proto.dims, values, indices).map_err(|d| d.at_value(name))
    }

    fn dense(
        &mut self,
        dims: &[i64],
        values: &onnx_protobuf::TensorProto,
        indices: Option<&onnx_protobuf::TensorProto>,
    ) -> Result<Tensor, Diag> {
        let shape = shape_of(dims)?;
        let values = self.tensor(values)?;
        let limit = self.limits.dense_bytes;
        let n = n_elements(&shape)
            .filter(|n| n.checked_mul(values.dtype().size_bytes()).is_some_and(|bytes| bytes <= limit));
        let n = n.ok_or_else(|| {
            let text =
                format!("a sparse tensor of shape {shape:?} takes more than {limit} bytes as a dense one");
            Diag::new("I007", text).hint("raise the limit")
        })?;
        let places = match indices {
            Some(indices) => {
                let indices = self.tensor(indices)?;
                places(&indices, &shape, values.n_elements())?
            }
            None if values.n_elements() == 0 => Vec::new(),
            None => return Err(bad("the sparse tensor has no indices")),
        };
        if values.rank() != 1 || places.len() != values.n_elements() {
            let text =
                format!("a sparse tensor has {} values and {} indices", values.n_elements(), places.len());
            return Err(bad(text));
        }
        let ascending = places.windows(2).all(|w| w[0] < w[1]) && places.last().is_none_or(|&p| p < n);
        if !ascending {
            return Err(bad("the indices of a sparse tensor are not ascending places in it"));
        }
        scatter(&values, &places, &shape, n).ok_or_else(|| bad("a sparse tensor has impossible values"))
    }
}

/// Places in the dense tensor, row by row.
fn places(indices: &Tensor, shape: &[usize], n_values: usize) -> Result<Vec<usize>, Diag> {
    if indices.dtype() != DType::I64 {
        return Err(bad(format!("the indices of a sparse tensor are {}, not i64", indices.dtype().name())));
    }
    let outside = || bad("an index of a sparse tensor lies outside it");
    let values = indices.to_i64s();
    match indices.shape() {
        [_] => values.iter().map(|&v| usize::try_from(v).map_err(|_| outside())).collect(),
        [rows, rank] if *rank == shape.len() && *rows == n_values => {
            let place = |row: usize| {
                let index = &values[row * rank..(row + 1) * rank];
                index.iter().zip(shape).try_fold(0usize, |at, (&i, &size)| {
                    let i = usize::try_from(i).ok().filter(|i| *i < size).ok_or_else(outside)?;
                    Ok(at * size + i)
                })
            };
            (0..*rows).map(place).collect()
        }
        other => {
            Err(bad(format!("the indices of a sparse tensor of rank {} have shape {other:?}", shape.len())))
        }
    }
}

fn scatter(values: &Tensor, places: &[usize], shape: &[usize], n: usize) -> Option<Tensor> {
    if values.dtype() == DType::Str {
        let mut strings = vec![""; n];
        places.iter().zip(values.strings()).for_each(|(&p, s)| strings[p] = s);
        return Tensor::from_strings(shape, &strings);
    }
    let size = values.dtype().size_bytes();
    let mut out = vec![0u8; n * size];
    for (&place, element) in places.iter().zip(values.bytes().chunks_exact(size)) {
        out[place * size..(place + 1) * size].copy_from_slice(element);
    }
    Tensor::new(values.dtype(), shape, Bytes::from_vec(out))
}

/// The sparse form of a dense tensor, with linear indices.
pub(crate) fn to_sparse(name: &str, tensor: &Tensor) -> SparseTensorProto {
    let size = tensor.dtype().size_bytes();
    let strings = tensor.strings();
    let is_zero = |i: usize| match strings.get(i) {
        Some(text) => text.is_empty(),
        None => tensor.bytes()[i * size..(i + 1) * size].iter().all(|&b| b == 0),
    };
    let places: Vec<usize> = (0..tensor.n_elements()).filter(|&i| !is_zero(i)).collect();
    let values = if tensor.dtype() == DType::Str {
        Tensor::from_strings(&[places.len()], &places.iter().map(|&p| strings[p]).collect::<Vec<_>>())
    } else {
        let bytes = places.iter().flat_map(|&p| tensor.bytes()[p * size..(p + 1) * size].iter().copied());
        Tensor::new(tensor.dtype(), &[places.len()], Bytes::from_vec(bytes.collect()))
    };
    let linear: Vec<i64> = places.iter().map(|&p| p as i64).collect();
    let indices = Tensor::from_slice(&[linear.len()], &linear);
    SparseTensorProto {
        values: values.map(|v| full(name, &v)).into(),
        indices: indices.map(|i| full("", &i)).into(),
        dims: tensor.shape().iter().map(|&d| d as i64).collect(),
        ..Default::default()
    }
}

/// Bytes of the elements in a file.
pub(crate) fn size_in_file(tensor: &Tensor) -> usize {
    match tensor.dtype() {
        DType::Str => tensor.strings().iter().map(|s| s.len() + 6).sum(),
        dtype => file_len(dtype, tensor.n_elements()).unwrap_or(usize::MAX),
    }
}

fn bad(text: impl Into<String>) -> Diag {
    Diag::new("I043", text).hint(DAMAGED)
}
