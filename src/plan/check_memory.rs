//! Checks arenas: offsets inside, aligned, and no two values on the same bytes while both are reserved.
//!
//! Reservations are computed here from the steps, not taken from the compiler's word.

use crate::check::{bad, constant_bytes};
use crate::limits::{MAX_ARENA_BYTES, VALUE_ALIGN_BYTES};
use crate::reserve::{Reservation, value_place};
use crate::{Plan, PlanError, Storage};
use std::collections::BTreeMap;

/// Checks that stated reservations cover the needed ones and, for a plan without symbols, the arenas.
///
/// # Errors
/// `L060` offset, `L061` overlap, `L062` reservation too short, `L063` arena too large.
pub(crate) fn check(plan: &Plan, roots: &[u32], needed: &[Reservation]) -> Result<(), PlanError> {
    let owners: Vec<usize> = (0..plan.values.len())
        .filter(|&v| roots[v] as usize == v && plan.values[v].storage == Storage::Arena as i32)
        .collect();
    for &owner in &owners {
        let value = &plan.values[owner];
        if value.first > needed[owner].first || value.last < needed[owner].last {
            let message = format!(
                "its bytes are reserved for positions {}..={}, its steps need {}..={}",
                value.first, value.last, needed[owner].first, needed[owner].last
            );
            return Err(bad("L062", value_place(plan, owner), message));
        }
    }
    if !plan.symbols.is_empty() {
        return Ok(());
    }
    arena_sizes(plan)?;
    let mut items: Vec<Vec<Live>> = vec![Vec::new(); plan.devices.len()];
    for &owner in &owners {
        let live = live(plan, owner, needed[owner])?;
        items[plan.values[owner].device as usize].push(live);
    }
    items.into_iter().try_for_each(|items| no_overlap(plan, items))
}

fn arena_sizes(plan: &Plan) -> Result<(), PlanError> {
    for (index, device) in plan.devices.iter().enumerate() {
        let known = if device.memory_bytes == 0 { MAX_ARENA_BYTES } else { device.memory_bytes };
        if device.arena_bytes > known.min(MAX_ARENA_BYTES) {
            let place = format!("device {index} ({})", device.name);
            return Err(bad("L063", place, "its arena is larger than its memory or the limit"));
        }
    }
    Ok(())
}

/// A value's bytes and when they are its own.
#[derive(Clone, Copy)]
struct Live {
    value: usize,
    start: u64,
    end: u64,
    at: Reservation,
}

fn live(plan: &Plan, owner: usize, at: Reservation) -> Result<Live, PlanError> {
    let value = &plan.values[owner];
    let fail = |message: &str| Err(bad("L060", value_place(plan, owner), message));
    let Some(Some(bytes)) = constant_bytes(value) else { return fail("its size is not known") };
    let arena = plan.devices.get(value.device as usize).map_or(0, |d| d.arena_bytes);
    if !value.offset.is_multiple_of(VALUE_ALIGN_BYTES) {
        return fail("its offset is not a multiple of 64 bytes");
    }
    match value.offset.checked_add(bytes) {
        Some(end) if end <= arena => Ok(Live { value: owner, start: value.offset, end, at }),
        _ => fail("it does not lie inside its device's arena"),
    }
}

/// Walks the positions with the living values sorted by offset; neighbours must not touch.
fn no_overlap(plan: &Plan, mut items: Vec<Live>) -> Result<(), PlanError> {
    items.retain(|i| i.end > i.start);
    let mut ending = items.clone();
    items.sort_by_key(|i| i.at.first);
    ending.sort_by_key(|i| i.at.last);
    let mut ended = ending.iter().peekable();
    let mut alive: BTreeMap<u64, Live> = BTreeMap::new();
    for item in items {
        while let Some(gone) = ended.next_if(|e| e.at.last < item.at.first) {
            alive.remove(&gone.start);
        }
        let below = alive.range(..item.end).next_back();
        if let Some((_, other)) = below.filter(|(_, other)| other.end > item.start) {
            let message = format!(
                "it lies on bytes of {} while both are reserved at position {}",
                value_place(plan, other.value),
                item.at.first
            );
            return Err(bad("L061", value_place(plan, item.value), message));
        }
        alive.insert(item.start, item);
    }
    Ok(())
}
