//! A plan as text for people.

use std::fmt::Write;

use crate::plan::{Part, Plan, Role, Stage};
use crate::request::{Objective, Phase};

/// Names listed before a range or a count takes over.
const MOST_NAMES: usize = 4;

impl Plan {
    /// The plan as a table with its figures, alternatives and remarks.
    pub fn table(&self) -> String {
        let mut out = String::new();
        self.write_head(&mut out);
        for part in &self.parts {
            write_part(&mut out, part);
        }
        self.write_figures(&mut out);
        self.write_rest(&mut out);
        out
    }

    fn write_head(&self, out: &mut String) {
        let billions = self.params as f64 / 1e9;
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{}: {billions:.2} B parameters in {} ({} bits each): {} of weights, {} of keys and values for {} x {} tokens",
            self.model,
            self.quant,
            self.bits,
            bytes(self.weight_bytes),
            bytes(self.cache_bytes),
            self.batch,
            self.context.max(self.prompt + self.output)
        );
        let _ = writeln!(out, "sizes: {}", self.model_source);
        let _ = writeln!(out, "{}: {}", self.machine, self.strategy);
    }

    fn write_figures(&self, out: &mut String) {
        if self.phase != Phase::Decode {
            let _ = writeln!(out, "first token after {}", time(self.prefill_us));
        }
        if self.handoff_us > 0.0 {
            let _ = writeln!(out, "keys and values handed over in {}", time(self.handoff_us));
        }
        if self.phase != Phase::Prefill {
            let per_user = 1e6 / self.step_us;
            let _ =
                writeln!(out, "{} per token ({per_user:.1} tokens/s for each sequence)", time(self.step_us));
        }
        let _ = writeln!(out, "{:.1} tokens/s in all, run of {}", self.tokens_per_second, time(self.run_us));
        if let Some(joules) = self.joules_per_token {
            let _ = writeln!(out, "{joules:.3} J per token at the devices' design power");
        }
        if let Some(usd) = self.usd_per_million_tokens {
            let _ = writeln!(out, "{usd:.2} USD per million tokens at the stated rent");
        }
        let certificate = &self.certificate;
        let unit = match self.objective {
            Objective::Latency => "us",
            Objective::Throughput => "tokens/s",
            Objective::Energy => "J",
            Objective::Price => "USD",
        };
        let _ = writeln!(
            out,
            "value {:.6} {unit}, bound {:.6}, gap {:.2} %, {} divisions tried\n  bound over {}",
            certificate.value,
            certificate.bound,
            100.0 * certificate.gap,
            certificate.work,
            certificate.class
        );
    }

    fn write_rest(&self, out: &mut String) {
        if !self.alternatives.is_empty() {
            out.push_str("other strategies:\n");
        }
        for other in &self.alternatives {
            let Some(strategy) = &other.strategy else {
                let _ = writeln!(out, "  {:<20} {}", other.class, other.note);
                continue;
            };
            let (run, rate) = (time(other.run_us), other.tokens_per_second);
            let _ = writeln!(
                out,
                "  {:<20} {run:>10} {rate:>10.1} tokens/s  {} ({strategy})",
                other.class, other.note
            );
        }
        let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
        for unused in &self.unused {
            match reasons.iter_mut().find(|(why, _)| *why == unused.why) {
                Some((_, names)) => names.push(unused.device.clone()),
                None => reasons.push((&unused.why, vec![unused.device.clone()])),
            }
        }
        for (why, devices) in reasons {
            let _ = writeln!(out, "unused: {}: {why}", names(&devices));
        }
        for note in &self.notes {
            let _ = writeln!(out, "note: {note}");
        }
    }
}

fn write_part(out: &mut String, part: &Part) {
    let role = match part.role {
        Role::All => "",
        Role::Prefill => "reads prompts: ",
        Role::Decode => "writes tokens: ",
    };
    let _ = writeln!(
        out,
        "{role}{} x {} sequences, read in {} pieces, written in {}",
        part.replicas, part.sequences, part.prefill_pieces, part.decode_pieces
    );
    let _ = writeln!(
        out,
        "  {:>11} {:>3} {:>10} {:>10} {:>10} {:>10} {:>10}  devices",
        "layers", "tp", "memory", "of", "read", "write", "exchange"
    );
    for stage in &part.stages {
        let _ = writeln!(out, "{}", stage_row(stage));
    }
}

fn stage_row(stage: &Stage) -> String {
    let layers = if stage.layers == 0 {
        "-".to_owned()
    } else {
        format!("{}..{}", stage.first_layer, stage.first_layer + stage.layers - 1)
    };
    let mut marks = String::new();
    for (set, word) in [(stage.table, "table"), (stage.head, "head"), (stage.uneven, "uneven")] {
        if set {
            let _ = write!(marks, " +{word}");
        }
    }
    let all: Vec<String> = stage.devices.iter().flatten().cloned().collect();
    format!(
        "  {layers:>11} {:>3} {:>10} {:>10} {:>10} {:>10} {:>9.1}%  {}{marks}",
        stage.ranks,
        bytes(stage.bytes),
        bytes(stage.usable_bytes),
        time(stage.prefill_us),
        time(stage.decode_us),
        100.0 * stage.exchange_share,
        names(&all)
    )
}

/// Names, shortened to a range where they are many.
fn names(all: &[String]) -> String {
    match all {
        [first, .., last] if all.len() > MOST_NAMES => format!("{first} .. {last} ({})", all.len()),
        _ => all.join(" "),
    }
}

fn bytes(bytes: f64) -> String {
    match bytes {
        b if b >= 1e12 => format!("{:.2} TB", b / 1e12),
        b if b >= 1e9 => format!("{:.2} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.0} kB", b / 1e3),
    }
}

fn time(us: f64) -> String {
    match us {
        us if us >= 1e6 => format!("{:.2} s", us / 1e6),
        us if us >= 1e3 => format!("{:.2} ms", us / 1e3),
        us if us > 0.0 => format!("{us:.1} us"),
        _ => "-".to_owned(),
    }
}
