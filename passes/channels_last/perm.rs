//! Permutations of axes: axis `i` of the moved tensor is axis `perm[i]` of the plain one.

use partita_ir::Dim;

/// Whether nothing moves.
pub(super) fn is_identity(perm: &[usize]) -> bool {
    perm.iter().enumerate().all(|(i, &p)| i == p)
}

/// The permutation that undoes `perm`.
pub(super) fn inverse(perm: &[usize]) -> Vec<usize> {
    let mut out = vec![0; perm.len()];
    for (i, &p) in perm.iter().enumerate() {
        out[p] = i;
    }
    out
}

/// `list` in the order of the moved tensor.
pub(super) fn apply<T: Clone>(perm: &[usize], list: &[T]) -> Vec<T> {
    perm.iter().map(|&p| list[p].clone()).collect()
}

/// The permutation as seen from a tensor that is the plain one with its axes permuted by `turn`.
pub(super) fn after_transpose(perm: &[usize], turn: &[usize]) -> Vec<usize> {
    apply(perm, &inverse(turn))
}

/// The permutation of what is left when `gone` axes of the plain tensor vanish.
pub(super) fn without(perm: &[usize], gone: &[usize]) -> Vec<usize> {
    let kept = perm.iter().filter(|p| !gone.contains(p));
    kept.map(|&p| p - gone.iter().filter(|&&g| g < p).count()).collect()
}

/// Whether permuting a tensor of this shape moves no element: the axes longer than 1 keep their order.
pub(super) fn keeps_order(perm: &[usize], shape: &[Dim]) -> bool {
    perm.iter().filter(|&&p| !shape[p].is(1)).is_sorted()
}

/// The permutation of the result, when a tensor of shape `from` that is held permuted by `perm` is reshaped to `to`
/// and the held one only needs a reshape too. `None` when elements would have to move.
pub(super) fn reshaped(perm: &[usize], from: &[Dim], to: &[Dim]) -> Option<Vec<usize>> {
    let groups = groups(from, to)?;
    let group_of = |axis: usize| groups.iter().position(|g| g.from.contains(&axis));
    // Groups in the order in which the held tensor has them; each must lie there in one piece and in order.
    let mut order: Vec<usize> = Vec::new();
    let mut last = None;
    for &axis in perm.iter().filter(|&&p| !from[p].is(1)) {
        let group = group_of(axis)?;
        if order.last() == Some(&group) {
            if last.is_some_and(|l| l > axis) {
                return None;
            }
        } else if order.contains(&group) {
            return None;
        } else {
            order.push(group);
        }
        last = Some(axis);
    }
    // Groups of ones go behind the group before them.
    for group in (0..groups.len()).filter(|g| !order.contains(g)).collect::<Vec<_>>() {
        let behind = order.iter().position(|&g| g + 1 == group).map_or(0, |at| at + 1);
        order.insert(behind, group);
    }
    Some(order.into_iter().flat_map(|g| groups[g].to.clone()).collect())
}

/// Neighbouring axes of both shapes that hold the same elements.
struct Group {
    from: std::ops::Range<usize>,
    to: std::ops::Range<usize>,
}

/// The finest such groups; `None` when sizes cannot be compared or one is 0.
fn groups(from: &[Dim], to: &[Dim]) -> Option<Vec<Group>> {
    let (mut i, mut j, mut out) = (0, 0, Vec::new());
    let next = |list: &[Dim], at: &mut usize, product: &mut Dim| -> Option<()> {
        *product = product.clone() * list.get(*at)?.clone();
        *at += 1;
        Some(())
    };
    while i < from.len() || j < to.len() {
        let start = (i, j);
        let (mut a, mut b) = (Dim::known(1), Dim::known(1));
        let _ = next(from, &mut i, &mut a);
        let _ = next(to, &mut j, &mut b);
        while a != b {
            match (a.as_known(), b.as_known()) {
                (Some(0), _) | (_, Some(0)) | (None, None) => return None,
                (Some(x), Some(y)) if x > y => next(to, &mut j, &mut b)?,
                (Some(_), _) => next(from, &mut i, &mut a)?,
                (None, Some(_)) => next(to, &mut j, &mut b)?,
            }
        }
        if a.is(0) {
            return None;
        }
        out.push(Group { from: start.0..i, to: start.1..j });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dims(sizes: &[i64]) -> Vec<Dim> {
        sizes.iter().map(|&d| if d < 0 { Dim::symbol(&format!("s{}", -d)) } else { Dim::known(d) }).collect()
    }

    fn case(perm: &[usize], from: &[i64], to: &[i64]) -> Option<Vec<usize>> {
        reshaped(perm, &dims(from), &dims(to))
    }

    #[test]
    fn reshapes_follow_the_channels() {
        let last = [0, 2, 3, 1];
        // Rows and columns become one axis, and two again.
        assert_eq!(case(&last, &[2, 3, 4, 5], &[2, 3, 20]), Some(vec![0, 2, 1]));
        assert_eq!(case(&[0, 2, 1], &[2, 3, 20], &[2, 3, 4, 5]), Some(vec![0, 2, 3, 1]));
        // Channels split into groups (channel shuffle), and come together.
        assert_eq!(case(&last, &[2, 6, 4, 5], &[2, 2, 3, 4, 5]), Some(vec![0, 3, 4, 1, 2]));
        assert_eq!(case(&[0, 3, 4, 1, 2], &[2, 3, 2, 4, 5], &[2, 6, 4, 5]), Some(vec![0, 2, 3, 1]));
        // One pixel is flat already.
        assert_eq!(case(&last, &[2, 6, 1, 1], &[2, 6]), Some(vec![0, 1]));
        // Flattening more moves elements.
        assert_eq!(case(&last, &[2, 3, 4, 5], &[2, 60]), None);
        assert_eq!(case(&last, &[2, 3, 0, 5], &[2, 3, 0]), None);
    }

    #[test]
    fn symbols_are_compared_as_far_as_they_are_equal() {
        assert_eq!(case(&[0, 2, 3, 1], &[-1, 3, 4, 5], &[-1, 3, 20]), Some(vec![0, 2, 1]));
        assert_eq!(case(&[0, 2, 3, 1], &[-1, 3, -2, -3], &[-1, 3, -4]), None);
        assert_eq!(case(&[0, 2, 3, 1], &[-1, 8, -2, -3], &[-1, 2, 4, -2, -3]), Some(vec![0, 3, 4, 1, 2]));
    }

    #[test]
    fn small_facts() {
        assert_eq!(inverse(&[0, 2, 3, 1]), [0, 3, 1, 2]);
        assert_eq!(without(&[0, 2, 3, 1], &[2, 3]), [0, 1]);
        assert_eq!(without(&[0, 2, 3, 1], &[2]), [0, 2, 1]);
        assert!(is_identity(&after_transpose(&[0, 2, 3, 1], &[0, 2, 3, 1])));
        assert!(keeps_order(&[0, 2, 3, 1], &dims(&[2, 7, 1, 1])));
        assert!(!keeps_order(&[0, 2, 3, 1], &dims(&[2, 7, 1, 3])));
    }
}
