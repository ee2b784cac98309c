//! Types of values that a loop carries from one run of its body to the next: the least that holds for all runs.

use partita_ir::dim::DATA_LEAD;
use partita_ir::types::Form;
use partita_ir::{Diag, Dim, Type};

/// A type for a carried value that goes into the body as `before` and comes out as `after`. Sizes that change are
/// symbols of the formal input `name`, different ones in every run.
///
/// # Errors
/// `I022` when the element type changes.
pub(crate) fn generalise(before: &Type, after: &Type, name: &str) -> Result<Type, Diag> {
    if before == after {
        return Ok(before.clone());
    }
    match (&before.form, &after.form) {
        (Form::Tensor | Form::Unranked, Form::Tensor | Form::Unranked) if before.dtype != after.dtype => {
            let text = format!(
                "a body makes a carried value {} that it takes as {}",
                after.dtype.name(),
                before.dtype.name()
            );
            Err(Diag::new("I022", text).at_value(name).hint("cast it inside the body"))
        }
        (Form::Tensor, Form::Tensor) if before.rank() == after.rank() => {
            let pairs = before.shape.iter().zip(&after.shape).enumerate();
            let dim = |(axis, (b, a)): (usize, (&Dim, &Dim))| {
                if a == b { b.clone() } else { Dim::symbol(&format!("{DATA_LEAD}{name}.{axis}")) }
            };
            Ok(Type::new(before.dtype, pairs.map(dim).collect::<Vec<_>>()))
        }
        (Form::Tensor | Form::Unranked, Form::Tensor | Form::Unranked) => Ok(Type::unranked(before.dtype)),
        (Form::Sequence(b), Form::Sequence(a)) => Ok(Type::sequence(item(b, a))),
        (Form::Optional(b), Form::Optional(a)) => Ok(Type::optional(item(b, a))),
        _ => Ok(Type::any()),
    }
}

/// What holds for items of both types.
fn item(a: &Type, b: &Type) -> Type {
    match (&a.form, &b.form) {
        _ if a == b => a.clone(),
        (Form::Tensor | Form::Unranked, Form::Tensor | Form::Unranked) if a.dtype == b.dtype => {
            Type::unranked(a.dtype)
        }
        (Form::Sequence(x), Form::Sequence(y)) => Type::sequence(item(x, y)),
        (Form::Optional(x), Form::Optional(y)) => Type::optional(item(x, y)),
        _ => Type::any(),
    }
}

/// The same without its shape.
pub(crate) fn without_shape(ty: &Type) -> Type {
    match &ty.form {
        Form::Tensor | Form::Unranked => Type::unranked(ty.dtype),
        _ => Type::any(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use partita_ir::DType;

    #[test]
    fn sizes_that_change_become_symbols() {
        let before = Type::known(DType::F32, &[2, 3]);
        let after = Type::new(DType::F32, vec![Dim::symbol("n"), 3.into()]);
        let both = generalise(&before, &after, "x").unwrap();
        assert_eq!(both, Type::new(DType::F32, vec![Dim::symbol("~x.0"), 3.into()]));
        assert_eq!(generalise(&both, &after, "x").unwrap(), both);
        let rank = generalise(&before, &Type::known(DType::F32, &[6]), "x").unwrap();
        assert_eq!(rank, Type::unranked(DType::F32));
        assert!(generalise(&before, &Type::known(DType::I64, &[2, 3]), "x").is_err());
        let item = Type::sequence(before.clone());
        assert_eq!(generalise(&item, &Type::sequence(rank.clone()), "x").unwrap(), Type::sequence(rank));
        assert_eq!(generalise(&item, &before, "x").unwrap(), Type::any());
    }
}
