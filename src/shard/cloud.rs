//! Rented machines: which hold the model, what a token costs on each. Prices come from a dated file that users replace.

use std::fmt;

use partita_hw::{Machine, Profiles};
use serde::{Deserialize, Serialize};

use crate::error::{Code, ShardError};
use crate::planner::best_plan;
use crate::request::Request;

const BUILTIN: &str = include_str!("instances.toml");

/// Version of the JSON.
pub const CLOUD_SCHEMA: u32 = 1;

/// Most bytes of a price file.
const MAX_FILE_BYTES: usize = 1 << 20;

/// Most instances of a price file.
const MAX_INSTANCES: usize = 256;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PriceFile {
    schema: u32,
    instance: Vec<Instance>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Instance {
    name: String,
    provider: String,
    profile: String,
    count: u64,
    usd_per_hour: f64,
    date: String,
    source: String,
    fabric: Option<String>,
    topology: Option<String>,
}

/// One machine for rent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offer {
    /// Its name.
    pub name: String,
    /// Who rents it out.
    pub provider: String,
    /// Id of the profile of its devices.
    pub profile: String,
    /// How many there are.
    pub count: u64,
    /// Rent in USD per hour.
    pub usd_per_hour: f64,
    /// Day of the price.
    pub date: String,
    /// Where the price was read.
    pub source: String,
    /// The plan in words; `None` when nothing fits.
    pub strategy: Option<String>,
    /// Tokens per second.
    pub tokens_per_second: f64,
    /// Time of a round in us.
    pub step_us: f64,
    /// Rent of the whole machine per million tokens, in USD; 0 when nothing fits.
    pub usd_per_million_tokens: f64,
    /// Why it does not fit.
    pub why_not: Option<String>,
}

/// Offers, those that fit first, cheapest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloudTable {
    /// Version of this form.
    pub schema: u32,
    /// The offers.
    pub offers: Vec<Offer>,
    /// Name of the cheapest per hour that fits.
    pub cheapest: Option<String>,
    /// Name of the cheapest per token.
    pub cheapest_per_token: Option<String>,
}

/// Plans a request on every machine of a price file, or of the program's.
///
/// # Errors
/// A letter for files that cannot be read and profiles that do not exist.
pub fn cloud(request: &Request, prices: Option<&str>, profiles: &Profiles) -> Result<CloudTable, ShardError> {
    request.check()?;
    let file = read(prices.unwrap_or(BUILTIN))?;
    let mut offers = Vec::new();
    for instance in file.instance {
        let machine = machine(&instance, profiles)?;
        offers.push(offer(request, instance, &machine));
    }
    let per_hour = |offer: &Offer| (offer.strategy.is_none(), offer.usd_per_hour);
    offers.sort_by(|a, b| {
        let (a, b) = (per_hour(a), per_hour(b));
        a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
    });
    let fitting = || offers.iter().filter(|offer| offer.strategy.is_some());
    let cheapest = fitting().next().map(|offer| offer.name.clone());
    let per_token = fitting().min_by(|a, b| a.usd_per_million_tokens.total_cmp(&b.usd_per_million_tokens));
    let cheapest_per_token = per_token.map(|offer| offer.name.clone());
    Ok(CloudTable { schema: CLOUD_SCHEMA, offers, cheapest, cheapest_per_token })
}

fn read(text: &str) -> Result<PriceFile, ShardError> {
    let bad =
        |message: String| ShardError::new(Code::Prices, message, "see src/shard/instances.toml for the form");
    if text.len() > MAX_FILE_BYTES {
        return Err(bad(format!("the price file has {} bytes; the limit is {MAX_FILE_BYTES}", text.len())));
    }
    let file: PriceFile = toml::from_str(text).map_err(|e| bad(e.to_string()))?;
    if file.schema != 1 || file.instance.len() > MAX_INSTANCES {
        return Err(bad(format!(
            "schema {} with {} instances is not read",
            file.schema,
            file.instance.len()
        )));
    }
    let wrong = |instance: &&Instance| {
        let rent = instance.usd_per_hour;
        !((1..=512).contains(&instance.count) && rent > 0.0 && rent < 1e6)
    };
    match file.instance.iter().find(wrong) {
        Some(instance) => Err(bad(format!("count or price of {:?} is out of range", instance.name))),
        None => Ok(file),
    }
}

/// The machine of an instance, as a machine file that is read like any other.
fn machine(instance: &Instance, profiles: &Profiles) -> Result<Machine, ShardError> {
    let quoted = |word: &str| toml::Value::String(word.to_owned()).to_string();
    let share = instance.usd_per_hour / instance.count as f64;
    let mut text = format!(
        "schema = 1\nname = {}\n[[device]]\nname = \"acc\"\ndriver = \"sim\"\nprofile = {}\ncount = {}\nusd_per_hour = {share:?}\n",
        quoted(&instance.name),
        quoted(&instance.profile),
        instance.count
    );
    if instance.count > 1 {
        text.push_str("[[fabric]]\ndevices = [\"acc\"]\n");
        match (&instance.fabric, &instance.topology) {
            (Some(kind), Some(topology)) => {
                text.push_str(&format!("kind = {}\ntopology = {}\n", quoted(kind), quoted(topology)));
            }
            _ => text.push_str("kind = \"pcie4-x16\"\ntopology = \"switch\"\n"),
        }
    }
    Machine::parse(&instance.name, &text, profiles)
        .map_err(|e| ShardError::new(Code::Prices, format!("{:?}: {}", instance.name, e.message), e.hint))
}

fn offer(request: &Request, instance: Instance, machine: &Machine) -> Offer {
    let mut offer = Offer {
        name: instance.name,
        provider: instance.provider,
        profile: instance.profile,
        count: instance.count,
        usd_per_hour: instance.usd_per_hour,
        date: instance.date,
        source: instance.source,
        strategy: None,
        tokens_per_second: 0.0,
        step_us: 0.0,
        usd_per_million_tokens: 0.0,
        why_not: None,
    };
    match best_plan(request, machine) {
        Ok(plan) => {
            offer.strategy = Some(plan.strategy);
            offer.tokens_per_second = plan.tokens_per_second;
            offer.step_us = plan.step_us;
            offer.usd_per_million_tokens = offer.usd_per_hour / 3600.0 / plan.tokens_per_second * 1e6;
        }
        Err(error) => offer.why_not = Some(error.message),
    }
    offer
}

impl fmt::Display for CloudTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<32} {:>9} {:>11} {:>12} {:>11}  {:<10}  how",
            "instance", "USD/h", "tokens/s", "ms/token", "USD/Mtok", "price of"
        )?;
        for offer in &self.offers {
            let head = format!("{:<32} {:>9.2}", offer.name, offer.usd_per_hour);
            match (&offer.strategy, &offer.why_not) {
                (Some(strategy), _) => writeln!(
                    f,
                    "{head} {:>11.1} {:>12.3} {:>11.2}  {:<10}  {strategy}",
                    offer.tokens_per_second,
                    offer.step_us / 1e3,
                    offer.usd_per_million_tokens,
                    offer.date
                )?,
                (None, _) => writeln!(
                    f,
                    "{head} {:>11} {:>12} {:>11}  {:<10}  does not fit",
                    "-", "-", "-", offer.date
                )?,
            }
        }
        let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "none".to_owned());
        writeln!(f, "cheapest that fits: {}", name(&self.cheapest))?;
        writeln!(f, "cheapest per token: {}", name(&self.cheapest_per_token))
    }
}
