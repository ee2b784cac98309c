//! The equal split that PipeDream-2BW makes: the repeated layer in equal shares, one pair of degrees everywhere,
//! activations recomputed everywhere or nowhere, what is before and behind the repeated layers with the first and
//! last stage or in stages of its own.

use super::check::seconds;
use super::model::Model;
use super::stages::{Part, Variant};
use std::collections::BTreeMap;

/// The best of all equal splits.
pub(crate) fn best(model: &Model, variant: Variant) -> Option<(f64, Vec<Part>)> {
    let (before, layers, behind) = repeated(model);
    let mut found: Option<(f64, Vec<Part>)> = None;
    for apart in [0, 1] {
        for n in 1 + 2 * apart..=(layers.len() + 2 * apart).min(model.devices) {
            let shares = n - 2 * apart;
            let mut sets = vec![Vec::new(); n];
            let (each, more) = (layers.len() / shares, layers.len() % shares);
            let mut rest = layers.as_slice();
            for i in 0..shares {
                let (share, left) = rest.split_at(each + usize::from(i + more >= shares));
                sets[i + apart].extend_from_slice(share);
                rest = left;
            }
            sets[0].extend_from_slice(&before);
            sets[n - 1].extend_from_slice(&behind);
            offer(model, variant, &sets, &mut found);
        }
    }
    found
}

/// All degrees and both ways for one split.
fn offer(model: &Model, variant: Variant, sets: &[Vec<usize>], found: &mut Option<(f64, Vec<Part>)>) {
    let most = model.nodes.iter().flat_map(|v| v.menus.values().map(Vec::len)).max().unwrap_or(0);
    let n = sets.len();
    for d in (1..=model.devices.min(model.batch) / n).filter(|d| model.batch.is_multiple_of(*d)) {
        for &t in model.nodes[0].menus.keys().filter(|&&t| n * d * t <= model.devices) {
            if (t > 1 && variant.no_tensor) || (d > 1 && variant.no_data) {
                continue;
            }
            for way in 0..most {
                let part =
                    |nodes: &Vec<usize>| Part { nodes: nodes.clone(), d, t, choice: vec![way; nodes.len()] };
                let parts: Vec<Part> = sets.iter().map(part).collect();
                if let Ok(time) = seconds(model, &parts)
                    && found.as_ref().is_none_or(|f| time < f.0)
                {
                    *found = Some((time, parts));
                }
            }
        }
    }
}

/// Nodes before, of and behind the layer whose name or menus occur most often, each in topological order.
fn repeated(model: &Model) -> (Vec<usize>, Vec<usize>, Vec<usize>) {
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    model.nodes.iter().for_each(|n| *count.entry(n.name.as_str()).or_insert(0) += 1);
    let name = count.iter().max_by_key(|c| c.1).map_or("", |c| c.0);
    let order = model.order();
    let layers: Vec<usize> = order.iter().copied().filter(|&v| model.nodes[v].name == name).collect();
    let mut leads = vec![false; model.nodes.len()];
    let mut readers = vec![Vec::new(); model.nodes.len()];
    model.edges.iter().for_each(|&(u, v, _)| readers[u].push(v));
    for &v in order.iter().rev() {
        leads[v] = readers[v].iter().any(|&w| leads[w] || model.nodes[w].name == name);
    }
    let others = || order.iter().copied().filter(|&v| model.nodes[v].name != name);
    (others().filter(|&v| leads[v]).collect(), layers, others().filter(|&v| !leads[v]).collect())
}
