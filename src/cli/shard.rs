//! `partita shard`.

use super::Io;
use super::shard_args::{BatchArg, MethodArg, PhaseArg, ShardArgs, ShardObjective, StrategyArg};
use super::what_if::edited;
use crate::error::{Error, Result};
use partita_hw::{Machine, Profiles};
use partita_shard::{
    Allow, Caps, Method, ModelSpec, Objective, Phase, Plan, Quant, Request, ShardError, Subject, header,
    training,
};
use std::fmt::Write;

impl From<ShardError> for Error {
    fn from(error: ShardError) -> Self {
        Error::new(error.code.as_str(), error.message, error.hint)
    }
}

pub(super) fn execute(args: &ShardArgs, io: &mut Io) -> Result<()> {
    if args.models {
        return io.write(&models()?);
    }
    let (spec, stored) = subject(args)?;
    let quant = match (&args.quant, stored) {
        (Some(name), _) => Quant::parse(name)?,
        (None, Some(stored)) => stored,
        (None, None) => Quant::parse("bf16")?,
    };
    if let Some(method) = args.training {
        return train(args, &spec, method.into(), io);
    }
    let kv_bytes = args.kv_bits.map_or(quant.kv_bytes, |bits| f64::from(bits) / 8.0);
    let request = request(args, Subject { spec, quant, kv_bytes });
    if args.cloud {
        return cloud(args, &request, io);
    }
    let machine = edited(&base(args)?, &args.what_if.edits())?;
    (io.progress)("planning");
    let request = Request { required: required(args, &machine)?, ..request };
    let plan = plan(args, &request, &machine)?;
    if args.json {
        let text = plan.to_json().map_err(|e| Error::new("M020", e.to_string(), "please report this"))?;
        return io.write(&format!("{text}\n"));
    }
    io.write(&plan.table())?;
    compare(args, &request, &plan, io)
}

/// The plan, for the largest useful batch when none is given.
fn plan(args: &ShardArgs, request: &Request, machine: &Machine) -> Result<Plan> {
    if args.batch != BatchArg::Max {
        return Ok(partita_shard::plan(request, machine)?);
    }
    Ok(partita_shard::plan_largest_batch(request, machine)?)
}

/// With devices added or removed: what the machine as it stands would do.
fn compare(args: &ShardArgs, request: &Request, plan: &Plan, io: &mut Io) -> Result<()> {
    if args.what_if.edits().is_empty() {
        return Ok(());
    }
    let before = base(args)?;
    let plain = Request { required: Vec::new(), ..request.clone() };
    let text = match self::plan(args, &plain, &before) {
        Ok(old) => format!(
            "without the changes: {} at {:.1} tokens/s, {:.3} ms a run; with them {:.2} x the tokens/s\n",
            old.strategy,
            old.tokens_per_second,
            old.run_us / 1e3,
            plan.tokens_per_second / old.tokens_per_second
        ),
        Err(error) => format!("without the changes: {error}\n"),
    };
    io.write(&text)
}

fn models() -> Result<String> {
    let mut out = String::new();
    for model in partita_shard::models()? {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{:<18} {:>9.3} B  {}", model.id, model.params() as f64 / 1e9, model.name);
    }
    Ok(out)
}

/// The model, and the format its file is in.
fn subject(args: &ShardArgs) -> Result<(ModelSpec, Option<Quant>)> {
    if let Some(path) = &args.file {
        let file = header::read(path).map_err(|e| Error::from(e).in_file(path))?;
        return Ok((file.spec, Some(file.quant)));
    }
    match (&args.model, args.params) {
        (Some(id), _) => Ok((partita_shard::model(id)?, None)),
        (None, Some(params)) => Ok((partita_shard::guess(params)?, None)),
        (None, None) => {
            Err(Error::new("S001", "no model is named", "--model ID, --params 70B or --file PATH"))
        }
    }
}

fn request(args: &ShardArgs, subject: Subject) -> Request {
    let mut request = Request::new(subject, sequences(args), args.prompt, args.output);
    if let Some(phase) = args.phase {
        request.phase = phase.into();
    }
    request.context = args.context.unwrap_or(args.prompt + args.output);
    request.objective = args.objective.into();
    request.caps = Caps {
        deadline_us: args.deadline.map(|ms| ms * 1e3),
        usd_per_hour: args.budget,
        power_w: args.power,
    };
    request.allow = args.strategy.into();
    if let Some(work) = args.work {
        request.work = work;
    }
    request
}

/// Sequences asked for; 1 where the planner is to find how many pay.
fn sequences(args: &ShardArgs) -> u64 {
    match args.batch {
        BatchArg::Exactly(n) => n,
        BatchArg::Max => 1,
    }
}

fn base(args: &ShardArgs) -> Result<Machine> {
    match &args.machine {
        Some(path) => crate::devices::from_file(path),
        None => crate::devices::detected(true),
    }
}

fn required(args: &ShardArgs, machine: &Machine) -> Result<Vec<usize>> {
    let place = |name: &String| {
        machine.device(name).ok_or_else(|| {
            let names: Vec<&str> =
                machine.devices.iter().take(8).map(|device| device.name.as_str()).collect();
            Error::new(
                "S009",
                format!("there is no device {name:?}"),
                format!("devices begin {}", names.join(", ")),
            )
        })
    };
    args.required.iter().map(place).collect()
}

fn train(args: &ShardArgs, spec: &ModelSpec, method: Method, io: &mut Io) -> Result<()> {
    let batch = sequences(args);
    let tokens = args.context.unwrap_or(args.prompt + args.output);
    let memory = training(spec, method, batch, tokens);
    if args.json {
        let text = serde_json::to_string_pretty(&memory)
            .map_err(|e| Error::new("M020", e.to_string(), "please report this"))?;
        return io.write(&format!("{text}\n"));
    }
    let gb = |bytes: f64| format!("{:>10.2} GB", bytes / 1e9);
    io.write(&format!(
        "{} ({:.2} B parameters), {}, {batch} x {tokens} tokens: {:.3} B parameters trained\n\
         weights     {}\ngradients   {}\noptimizer   {}\nactivations {}   ({} when recomputed)\ntotal       {}\n{}\n",
        spec.name,
        spec.params() as f64 / 1e9,
        method.as_str(),
        memory.trained_params as f64 / 1e9,
        gb(memory.weight_bytes),
        gb(memory.gradient_bytes),
        gb(memory.optimizer_bytes),
        gb(memory.activation_bytes),
        gb(memory.recomputed_bytes).trim(),
        gb(memory.total_bytes),
        memory.formula
    ))
}

fn cloud(args: &ShardArgs, request: &Request, io: &mut Io) -> Result<()> {
    let text = match &args.prices {
        Some(path) => Some(std::fs::read_to_string(path).map_err(|e| Error::io("read", path, &e))?),
        None => None,
    };
    (io.progress)("planning");
    let table = partita_shard::cloud(request, text.as_deref(), &Profiles::builtin()?)?;
    if args.json {
        let text = serde_json::to_string_pretty(&table)
            .map_err(|e| Error::new("M020", e.to_string(), "please report this"))?;
        return io.write(&format!("{text}\n"));
    }
    io.write(&table.to_string())
}

impl From<PhaseArg> for Phase {
    fn from(arg: PhaseArg) -> Self {
        match arg {
            PhaseArg::Prefill => Phase::Prefill,
            PhaseArg::Decode => Phase::Decode,
            PhaseArg::Both => Phase::Both,
        }
    }
}

impl From<ShardObjective> for Objective {
    fn from(arg: ShardObjective) -> Self {
        match arg {
            ShardObjective::Latency => Objective::Latency,
            ShardObjective::Throughput => Objective::Throughput,
            ShardObjective::Energy => Objective::Energy,
            ShardObjective::Price => Objective::Price,
        }
    }
}

impl From<StrategyArg> for Allow {
    fn from(arg: StrategyArg) -> Self {
        let none = Allow::NONE;
        match arg {
            StrategyArg::Any => Allow::ALL,
            StrategyArg::None => none,
            StrategyArg::Pipeline => Allow { pipeline: true, ..none },
            StrategyArg::Tensor => Allow { tensor: true, ..none },
            StrategyArg::Data => Allow { data: true, ..none },
            StrategyArg::Together => Allow { split: false, ..Allow::ALL },
        }
    }
}

impl From<MethodArg> for Method {
    fn from(arg: MethodArg) -> Self {
        match arg {
            MethodArg::Full => Method::Full,
            MethodArg::Lora => Method::Lora,
            MethodArg::Qlora => Method::Qlora,
            MethodArg::Prefix => Method::Prefix,
            MethodArg::Dpo => Method::Dpo,
            MethodArg::Rlhf => Method::Rlhf,
            MethodArg::Distillation => Method::Distillation,
        }
    }
}
