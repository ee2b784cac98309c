//! `partita bench`.

use super::args::BenchArgs;
use super::run::{traced, write_outputs, write_trace};
use super::{Io, tensors};
use crate::error::{Error, Result};
use crate::pipeline::CompileOptions;
use crate::report::json::SCHEMA;
use crate::report::profile::Profile;
use crate::session::{Opening, is_plan, open, run_data};
use partita_codegen::lower::Precision;
use partita_ir::Datum;
use partita_plan::{PlanError, Port};
use partita_runtime::Program;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// Warm-up before times count, the longer of the two.
const WARMUP_RUNS: usize = 3;
const WARMUP_TIME: Duration = Duration::from_millis(300);
/// Without `--runs`: at least this many runs and this long, but not beyond `MOST_TIME`.
const LEAST_RUNS: usize = 30;
const LEAST_TIME: Duration = Duration::from_secs(1);
const MOST_TIME: Duration = Duration::from_secs(15);

pub(super) fn execute(args: &BenchArgs, io: &mut Io) -> Result<()> {
    let compile = args.compiling.options()?;
    let begin = Instant::now();
    let opening = Opening {
        threads: args.compiling.threads,
        trace: false,
        import: &args.compiling.import()?,
        compile: &compile,
        machine: &|| args.compiling.machine(),
        progress: io.progress,
        limits: args.limiting.limits(),
    };
    let mut program = open(&args.program, &opening)?;
    let load_ms = ms(begin.elapsed());
    let given = given(&program, args.inputs_dir.as_deref())?;
    let inputs = tensors::inputs(program.plan(), given, Some(0), &compile.dims)?;
    (io.progress)("running");
    let outputs = run_data(&program, inputs.clone())?;
    if let Some(dir) = &args.output_dir {
        write_outputs(&program, &outputs, dir)?;
    }
    let mut times = measure(&mut program, &inputs, args.runs)?;
    times.sort_by(f64::total_cmp);
    let profile = profile(args, &compile, &mut program, &inputs)?;
    let bind_ms = bind_ms(&mut program, &inputs)?;
    let peak_rss_bytes = peak_rss_bytes();
    let error = rounding_error(args, &opening, &inputs, &outputs)?;
    let figures = Figures { times, load_ms, bind_ms, peak_rss_bytes, error };
    report(args, &program, &figures, profile.as_ref(), io)
}

/// What was measured beside the profile.
struct Figures {
    /// Milliseconds of the timed runs, least first.
    times: Vec<f64>,
    load_ms: f64,
    bind_ms: Option<f64>,
    peak_rss_bytes: u64,
    /// Largest difference from a run in f32, by its largest value, where the model was compiled to round.
    error: Option<f64>,
}

/// How far rounding to the wished precision moves the outputs: the largest difference from what the same model gives in
/// f32, by the largest value of that output. `None` where nothing is rounded, or a plan was given instead of a model.
fn rounding_error(
    args: &BenchArgs,
    opening: &Opening,
    inputs: &[Datum],
    outputs: &[Datum],
) -> Result<Option<f64>> {
    if opening.compile.precision == Precision::F32 || is_plan(&args.program)? {
        return Ok(None);
    }
    let compile = CompileOptions { precision: Precision::F32, ..opening.compile.clone() };
    let exact = run_data(&open(&args.program, &Opening { compile: &compile, ..*opening })?, inputs.to_vec())?;
    let pairs = outputs.iter().zip(&exact).filter_map(|(a, b)| Some((a.as_tensor()?, b.as_tensor()?)));
    let pairs = pairs.filter(|(a, _)| a.dtype().is_float());
    Ok(pairs.map(|(a, b)| relative_error(&a.to_f64s(), &b.to_f64s())).reduce(f64::max))
}

fn relative_error(values: &[f64], exact: &[f64]) -> f64 {
    let largest = exact.iter().fold(0.0f64, |most, v| most.max(v.abs()));
    let difference = values.iter().zip(exact).fold(0.0f64, |most, (v, e)| most.max((v - e).abs()));
    if difference == 0.0 { 0.0 } else { difference / largest }
}

/// Runs with tracing: writes the trace of the first, and sums all of them up, each where asked for.
fn profile(
    args: &BenchArgs,
    compile: &CompileOptions,
    program: &mut Program,
    inputs: &[Datum],
) -> Result<Option<Profile>> {
    if !args.profile && args.trace.is_none() {
        return Ok(None);
    }
    let session = traced(program)?;
    session.set_trace(true);
    let views = views(inputs);
    session.run(&views)?;
    if let Some(path) = &args.trace {
        write_trace(session, path)?;
    }
    if !args.profile {
        return Ok(None);
    }
    let mut runs = Vec::new();
    let mut traced_run = || {
        session.run(&views)?;
        runs.push(session.trace());
        Ok(())
    };
    let counted = timed(&mut traced_run, args.runs)?.len();
    session.set_trace(false);
    let warm = runs.len() - counted;
    Ok(Some(Profile::new(session, &args.compiling.machine()?, compile.costs.as_deref(), &runs[warm..])))
}

/// Bytes and shapes of tensors.
fn views(inputs: &[Datum]) -> Vec<(&[u8], &[usize])> {
    inputs.iter().filter_map(Datum::as_tensor).map(|t| (t.bytes(), t.shape())).collect()
}

/// Milliseconds it takes to get ready for inputs of other sizes: the least of a few, between the sizes at hand and
/// sizes that are one larger. `None` for a plan whose sizes are fixed, and for a program.
fn bind_ms(program: &mut Program, inputs: &[Datum]) -> Result<Option<f64>> {
    const TIMES: usize = 10;
    let Some(session) = program.session().filter(|s| !s.plan().symbols.is_empty()) else { return Ok(None) };
    let given: Vec<Vec<usize>> =
        inputs.iter().filter_map(Datum::as_tensor).map(|t| t.shape().to_vec()).collect();
    let Some(symbols) = session.bound().map(|b| b.symbols.clone()) else { return Ok(None) };
    let larger: Vec<i64> = symbols.iter().map(|s| s + 1).collect();
    let plan = session.plan();
    let shape = |port: &Port| -> std::result::Result<Vec<usize>, PlanError> {
        let dims = &plan.values[port.value as usize].shape;
        dims.iter().map(|d| d.eval(&larger).map(|d| d.max(0) as usize)).collect()
    };
    let other = plan.inputs.iter().map(shape).collect::<std::result::Result<Vec<_>, _>>()?;
    let mut least = f64::INFINITY;
    for _ in 0..TIMES {
        for shapes in [&other, &given] {
            let views: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
            let before = Instant::now();
            session.bind(&views)?;
            least = least.min(ms(before.elapsed()));
        }
    }
    Ok(Some(least))
}

fn report(
    args: &BenchArgs,
    program: &Program,
    figures: &Figures,
    profile: Option<&Profile>,
    io: &mut Io,
) -> Result<()> {
    let Figures { times, load_ms, bind_ms, peak_rss_bytes, error } = figures;
    let at = |part: f64| times[((times.len() - 1) as f64 * part).round() as usize];
    if let Some(profile) = profile.filter(|_| !args.json) {
        io.write(&format!("{}\n", profile.text()))?;
    }
    let predicted_us = predicted_us(program, profile);
    if !args.json {
        return io.write(&format!(
            "median {:.3} ms, least {:.3} ms, p90 {:.3} ms over {} runs; loaded in {load_ms:.1} ms{}; predicted {:.3} ms{}\n",
            at(0.5), times[0], at(0.9), times.len(),
            bind_ms.map(|ms| format!(", other sizes bound in {ms:.3} ms")).unwrap_or_default(),
            predicted_us / 1e3,
            error.map(|e| format!("; rounding moves the outputs by {e:.1e} of the largest")).unwrap_or_default()
        ));
    }
    let object = json!({
        "schema": SCHEMA,
        "median_ms": at(0.5),
        "min_ms": times[0],
        "p90_ms": at(0.9),
        "load_ms": load_ms,
        "bind_ms": bind_ms,
        "load_s": load_ms / 1e3,
        "runs": times.len(),
        "predicted_ms": predicted_us / 1e3,
        "peak_rss_bytes": peak_rss_bytes,
        "error": error,
        "profile": profile.map(Profile::json),
        "outputs_dir": args.output_dir.as_ref().map(|d| d.display().to_string()),
    });
    io.write(&format!("{object}\n"))
}

/// Microseconds a run was predicted to take: by the profile, which knows the sizes at hand, where steps follow each other.
fn predicted_us(program: &Program, profile: Option<&Profile>) -> f64 {
    let plan = program.plan();
    match profile {
        Some(profile) if plan.queues.len() == 1 => profile.total().predicted_us,
        _ => plan.provenance.as_ref().map_or(0.0, |p| p.value_us),
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// NAME.npy for every input that the folder has.
fn given(program: &Program, dir: Option<&Path>) -> Result<BTreeMap<String, Datum>> {
    let mut out = BTreeMap::new();
    let Some(dir) = dir else { return Ok(out) };
    if !dir.is_dir() {
        return Err(Error::new(
            "F014",
            format!("{} is not a folder", dir.display()),
            "it holds NAME.npy per input",
        ));
    }
    for port in program.inputs() {
        let path = dir.join(format!("{}.npy", tensors::file_name(&port.name)));
        if path.exists() {
            out.insert(port.name.clone(), Datum::Tensor(tensors::read(&path)?));
        }
    }
    Ok(out)
}

/// Milliseconds of each timed run.
fn measure(program: &mut Program, inputs: &[Datum], runs: Option<usize>) -> Result<Vec<f64>> {
    let Some(session) = program.session() else {
        return timed(&mut || run_data(program, inputs.to_vec()).map(drop), runs);
    };
    let views = views(inputs);
    timed(&mut || Ok(session.run(&views)?), runs)
}

/// Milliseconds of each timed call of `run`, after some that do not count.
fn timed(run: &mut dyn FnMut() -> Result<()>, runs: Option<usize>) -> Result<Vec<f64>> {
    let begin = Instant::now();
    let mut warm = 0;
    while warm < WARMUP_RUNS || begin.elapsed() < WARMUP_TIME {
        run()?;
        warm += 1;
    }
    let begin = Instant::now();
    let mut times = Vec::new();
    loop {
        let before = Instant::now();
        run()?;
        times.push(ms(before.elapsed()));
        let done = match runs {
            Some(n) => times.len() >= n.max(1),
            None => {
                (times.len() >= LEAST_RUNS && begin.elapsed() >= LEAST_TIME) || begin.elapsed() >= MOST_TIME
            }
        };
        if done {
            return Ok(times);
        }
    }
}

/// Most memory this process has had resident, where the system tells (Linux), else 0.
fn peak_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
