//! An independent checker: the time per sample of a plan from the definition, or what it breaks.

use super::model::Model;
use super::stages::Part;
use crate::check::Violation;

/// Seconds per sample of the slowest stage.
///
/// # Errors
/// What the plan breaks: a node missing or twice, stages out of order, degrees, devices, memory.
pub fn seconds(model: &Model, parts: &[Part]) -> Result<f64, Violation> {
    let say = |place: String, message: &str| Violation { place, message: message.to_owned() };
    let mut stage_of = vec![usize::MAX; model.nodes.len()];
    for (i, part) in parts.iter().enumerate() {
        for &v in &part.nodes {
            if v >= stage_of.len() || stage_of[v] != usize::MAX {
                return Err(say(format!("stage {i}"), "a node does not exist or is in two stages"));
            }
            stage_of[v] = i;
        }
        if part.d == 0 || part.t == 0 || !model.batch.is_multiple_of(part.d) {
            return Err(say(format!("stage {i}"), "its degrees are zero or do not divide the batch"));
        }
    }
    if let Some(v) = stage_of.iter().position(|&s| s == usize::MAX) {
        return Err(say(format!("node {}", model.nodes[v].id), "it is in no stage"));
    }
    if model.edges.iter().any(|&(u, v, _)| stage_of[u] > stage_of[v]) {
        return Err(say("plan".into(), "a stage reads from a later one"));
    }
    if parts.iter().map(|p| p.d.saturating_mul(p.t)).sum::<usize>() > model.devices {
        return Err(say("plan".into(), "it uses more devices than there are"));
    }
    let in_flight: usize = parts.iter().map(|p| p.d).sum();
    if in_flight > model.batch {
        return Err(say("plan".into(), "the data-parallel degrees sum to more than the batch"));
    }
    let (mut slowest, mut behind) = (0.0f64, in_flight);
    for (i, part) in parts.iter().enumerate() {
        let samples = behind.div_ceil(part.d) as f64;
        behind -= part.d;
        let (mut compute, mut crossing, mut resync, mut memory) = (0.0, 0.0, 0.0, 0.0);
        for (&v, &l) in part.nodes.iter().zip(&part.choice) {
            let way = model.nodes[v].menus.get(&part.t).and_then(|m| m.get(l));
            let way = way.ok_or_else(|| say(format!("stage {i}"), "a node cannot run with this degree"))?;
            compute += way.seconds;
            memory += way.sample_bytes * samples + way.fixed_bytes;
            resync += 4.0 * (part.d as f64 - 1.0) / part.d as f64 * way.parameter_bytes / model.batch as f64;
            for &(a, b, bytes) in &model.edges {
                let other = if a == v { b } else { a };
                if (a == v || b == v) && stage_of[other] != i {
                    crossing += 2.0 * (bytes + way.sync_bytes.get(&other).copied().unwrap_or(0.0));
                }
            }
        }
        if memory > model.memory_bytes * (1.0 + 1e-12) {
            return Err(say(format!("stage {i}"), "its memory is exceeded"));
        }
        let d = part.d as f64;
        slowest = slowest.max((crossing / d + resync) / model.bandwidth + compute / d);
    }
    Ok(slowest)
}
