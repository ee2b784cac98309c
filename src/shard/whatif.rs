//! The same machine with devices added or removed.

use std::fmt::Write;

use partita_hw::{Machine, Profiles};

use crate::error::{Code, ShardError};

/// Most devices added at once.
const MAX_ADDED: usize = 1024;

/// The machine with `PROFILE[:COUNT]` added; links to the host follow from the profile.
///
/// # Errors
/// A letter for unknown profiles and counts out of range.
pub fn add(machine: &Machine, what: &str, profiles: &Profiles) -> Result<Machine, ShardError> {
    let (word, count) = match what.rsplit_once(':') {
        Some((word, count)) => (word, count.parse::<usize>().ok().filter(|n| (1..=MAX_ADDED).contains(n))),
        None => (what, Some(1)),
    };
    let bad = |message: String, hint: String| Err(ShardError::new(Code::UnknownDevice, message, hint));
    let Some(count) = count else {
        return bad(
            format!("{what:?} does not end in a count"),
            format!("say PROFILE:N with N from 1 to {MAX_ADDED}"),
        );
    };
    let ids: Vec<&str> = profiles.iter().map(|profile| profile.id.as_str()).collect();
    let exact = ids.iter().find(|id| **id == word);
    let parts: Vec<&str> = word.split('-').collect();
    let near: Vec<&&str> = ids.iter().filter(|id| parts.iter().all(|part| id.contains(part))).collect();
    let id = match (exact, near.as_slice()) {
        (Some(id), _) => *id,
        (None, [id]) => **id,
        (None, []) => {
            return bad(format!("there is no profile {word:?}"), "see partita devices --profiles".to_owned());
        }
        (None, many) => {
            let names: Vec<&str> = many.iter().map(|id| **id).collect();
            return bad(
                format!("{word:?} stands for several profiles"),
                format!("one of {}", names.join(", ")),
            );
        }
    };
    let taken = |name: &str| machine.devices.iter().any(|device| device.name.starts_with(name));
    let names = (1..).map(|n| format!("added{n}-"));
    let name = names.into_iter().find(|name| !taken(name)).unwrap_or_default();
    let mut text = machine.to_toml(profiles);
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "\n[[device]]\nname = \"{name}\"\ndriver = \"sim\"\nprofile = \"{id}\"\ncount = {count}\n"
    );
    Machine::parse(&machine.name, &text, profiles)
        .map_err(|e| ShardError::new(Code::UnknownDevice, e.message, e.hint))
}

/// The machine without a device, or without all whose names are that word and a number. Links that end there go too.
///
/// # Errors
/// A letter when there is no such device, or none would be left.
pub fn remove(machine: &Machine, name: &str) -> Result<Machine, ShardError> {
    let numbered =
        |own: &str| own.strip_prefix(name).is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
    let exact = machine.devices.iter().any(|device| device.name == name);
    let goes = |own: &str| if exact { own == name } else { numbered(own) };
    let kept: Vec<usize> =
        (0..machine.devices.len()).filter(|&index| !goes(&machine.devices[index].name)).collect();
    if kept.len() == machine.devices.len() || kept.is_empty() {
        let names: Vec<&str> = machine.devices.iter().take(8).map(|device| device.name.as_str()).collect();
        let message =
            if kept.is_empty() { "nothing would be left" } else { "there is no such device to remove" };
        return Err(ShardError::new(
            Code::UnknownDevice,
            message,
            format!("devices begin {}", names.join(", ")),
        ));
    }
    let place = |old: usize| kept.iter().position(|&index| index == old);
    let mut left = machine.clone();
    left.devices = kept.iter().map(|&index| machine.devices[index].clone()).collect();
    left.host = place(machine.host).unwrap_or(0);
    left.links.retain_mut(|link| match (place(link.from), place(link.to)) {
        (Some(from), Some(to)) => {
            (link.from, link.to) = (from, to);
            true
        }
        _ => false,
    });
    for fabric in &mut left.fabrics {
        fabric.devices = fabric.devices.iter().filter_map(|&index| place(index)).collect();
    }
    left.fabrics.retain(|fabric| fabric.devices.len() > 1);
    Ok(left)
}
