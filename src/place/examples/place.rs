//! Places a problem file with the library alone: `place FORMAT OBJECTIVE FILE OUTPUT [WORK]`.
#![allow(clippy::print_stdout, reason = "an example prints")]

use partita_place::{Format, Limits, Objective, solve_text};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [format, objective, file, output, rest @ ..] = args.as_slice() else {
        return Err("usage: place FORMAT OBJECTIVE FILE OUTPUT [WORK]".into());
    };
    let mut format = Format::from_word(format).ok_or("the format is partita, msr, helix or piper")?;
    let objective = Objective::from_word(objective).ok_or("the objective is latency or throughput")?;
    if let Format::Piper(options) = &mut format {
        options.devices = std::env::var("DEVICES").ok().and_then(|x| x.parse().ok());
        options.memory_bytes = std::env::var("MEMORY").ok().and_then(|x| x.parse().ok());
        options.bandwidth = std::env::var("BANDWIDTH").ok().and_then(|x| x.parse().ok());
        let variant = std::env::var("VARIANT").unwrap_or_default();
        options.variant.no_tensor = variant == "no-tp";
        options.variant.no_data = variant == "no-dp";
        options.variant.no_recompute = variant == "no-recompute";
        options.variant.equal_split = variant == "equal";
    }
    let work = rest.first().map(|w| w.parse()).transpose()?.unwrap_or(Limits::default().work);
    let limits = Limits { work, highs: false, ..Limits::default() };
    let text = std::fs::read_to_string(file)?;
    let (answer, solution) = solve_text(&text, format, objective, &limits)?;
    std::fs::write(output, solution)?;
    let percent = 100.0 * answer.gap;
    println!(
        "value {:.6}, bound {:.6} ({}), gap {percent:.3} %, {}; {}, {} work",
        answer.value,
        answer.lower_bound,
        answer.bound_kind,
        answer.status.word(),
        answer.solver,
        answer.work_used
    );
    Ok(())
}
