//! Shapes of the HTML report's drawings: positions and sizes in pixels, texts as they are (the template escapes them).

use crate::report::explain::kernel_of;
use crate::report::measured::Measured;
use crate::report::stages::value_bytes;
use crate::report::timeline::{Timeline, step};
use partita_plan::{Plan, Queue, Storage};
use serde::Serialize;
use std::collections::BTreeMap;

/// Width of the part of a drawing that is time.
const TIME_PX: f64 = 960.0;
/// Room for names on the left.
const LEFT_PX: f64 = 130.0;
/// Room for figures on the right.
const RIGHT_PX: f64 = 90.0;
const LANE_PX: f64 = 30.0;
const MEASURED_PX: f64 = 16.0;
const GAP_PX: f64 = 10.0;
const MEMORY_PX: f64 = 90.0;
/// Steps narrower than this join their neighbours.
const NARROW_PX: f64 = 1.5;
/// A letter of the labels.
const LETTER_PX: f64 = 6.2;
/// Fill colours of kernels, by their share of the time; the last is for all others.
const COLOURS: [&str; 9] =
    ["#4878a8", "#e49444", "#5f9e6e", "#b65f6f", "#8572a8", "#967355", "#c98ab4", "#7fa6a8", "#b0aca4"];

/// A box of the timeline.
#[derive(Debug, Serialize)]
pub(crate) struct Bar {
    x: f64,
    width: f64,
    colour: &'static str,
    label: String,
    tip: String,
    critical: bool,
}

/// One queue.
#[derive(Debug, Serialize)]
pub(crate) struct Lane {
    name: String,
    y: f64,
    height: f64,
    note: String,
    bars: Vec<Bar>,
}

/// A mark of the time axis.
#[derive(Debug, Serialize)]
pub(crate) struct Tick {
    x: f64,
    label: String,
}

/// A drawing of lanes.
#[derive(Debug, Serialize)]
pub(crate) struct Gantt {
    width: f64,
    height: f64,
    left: f64,
    right: f64,
    lanes: Vec<Lane>,
    ticks: Vec<Tick>,
    /// Colours and what they stand for.
    legend: Vec<(&'static str, String)>,
}

/// Bytes alive on one device over time.
#[derive(Debug, Serialize)]
pub(crate) struct MemoryChart {
    name: String,
    width: f64,
    height: f64,
    left: f64,
    right: f64,
    /// Corners of the filled area.
    points: String,
    peak: String,
    note: String,
    ticks: Vec<Tick>,
}

/// Time to pixels.
#[derive(Clone, Copy)]
struct Scale {
    end_us: f64,
}

impl Scale {
    fn x(self, us: f64) -> f64 {
        LEFT_PX + TIME_PX * (us / self.end_us.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0)
    }

    fn ticks(self) -> Vec<Tick> {
        let rough = self.end_us / 8.0;
        if !(rough.is_finite() && rough > 0.0) {
            return Vec::new();
        }
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].iter().map(|m| m * power).find(|s| *s >= rough).unwrap_or(rough);
        (0..=8).map(|n| f64::from(n) * step).filter(|us| *us <= self.end_us).map(|us| self.tick(us)).collect()
    }

    fn tick(self, us: f64) -> Tick {
        Tick { x: px(self.x(us)), label: time_text(us) }
    }
}

fn px(x: f64) -> f64 {
    (x * 100.0).round() / 100.0
}

/// Microseconds for people.
pub(crate) fn time_text(us: f64) -> String {
    match us {
        us if us >= 1e6 => format!("{:.3} s", us / 1e6),
        us if us >= 1e4 => format!("{:.2} ms", us / 1e3),
        us if us >= 100.0 => format!("{us:.0} us"),
        us if us >= 1.0 || us == 0.0 => format!("{us:.1} us"),
        us => format!("{us:.3} us"),
    }
}

/// Kernels with their colours, those that take the most time first.
fn palette(plan: &Plan) -> BTreeMap<String, &'static str> {
    let mut times: BTreeMap<String, f64> = BTreeMap::new();
    for queue in &plan.queues {
        for step in &queue.steps {
            *times.entry(kind(plan, queue, step)).or_default() += step.time_us;
        }
    }
    let mut order: Vec<(String, f64)> = times.into_iter().collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1));
    let colour = |n: usize| COLOURS[n.min(COLOURS.len() - 1)];
    order.into_iter().enumerate().map(|(n, (name, _))| (name, colour(n))).collect()
}

fn kind(plan: &Plan, queue: &Queue, step: &partita_plan::Step) -> String {
    if queue.copies { "transfer".to_owned() } else { kernel_of(plan, step).to_owned() }
}

/// Who runs what when: a lane per queue, and a thinner one for what was measured.
pub(crate) fn gantt(plan: &Plan, timeline: &Timeline, measured: Option<&Measured>) -> Gantt {
    let starts = measured.and_then(|m| Some((m, m.end_us()?)));
    let scale = Scale { end_us: starts.map_or(timeline.end_us, |(_, end)| end.max(timeline.end_us)) };
    let colours = palette(plan);
    let mut lanes = Vec::new();
    let mut y = 24.0;
    for (q, queue) in plan.queues.iter().enumerate() {
        let busy = crate::report::timeline::busy_us(queue);
        let share = 100.0 * busy / timeline.end_us.max(f64::MIN_POSITIVE);
        let spans = queue.steps.iter().map(|s| (s.start_us, s.time_us));
        let mut lane = lane(plan, q, timeline, spans.collect(), scale, &colours);
        (lane.y, lane.height, lane.note) = (y, LANE_PX, format!("{share:.1} % busy"));
        y += LANE_PX + GAP_PX;
        lanes.push(lane);
        if let Some((measured, _)) = starts.filter(|_| !queue.steps.is_empty()) {
            let spans = measured.queues[q].iter().map(|s| (s.start_us.unwrap_or(0.0), s.time_us)).collect();
            let mut lane = self::lane(plan, q, timeline, spans, scale, &colours);
            lane.name = measured.clock.to_owned();
            (lane.y, lane.height) = (y - GAP_PX + 4.0, MEASURED_PX);
            lane.bars.iter_mut().for_each(|bar| (bar.critical, bar.label) = (false, String::new()));
            y += MEASURED_PX + 4.0;
            lanes.push(lane);
        }
    }
    let mut legend: Vec<(&'static str, String)> = Vec::new();
    for colour in COLOURS {
        let names: Vec<&str> =
            colours.iter().filter(|(_, c)| **c == colour).map(|(n, _)| n.as_str()).collect();
        match names.as_slice() {
            [] => {}
            [name] => legend.push((colour, (*name).to_owned())),
            names => legend.push((colour, format!("{} others", names.len()))),
        }
    }
    Gantt {
        width: LEFT_PX + TIME_PX + RIGHT_PX,
        height: y,
        left: LEFT_PX,
        right: LEFT_PX + TIME_PX,
        lanes,
        ticks: scale.ticks(),
        legend,
    }
}

fn lane(
    plan: &Plan,
    q: usize,
    timeline: &Timeline,
    spans: Vec<(f64, f64)>,
    scale: Scale,
    colours: &BTreeMap<String, &'static str>,
) -> Lane {
    let queue = &plan.queues[q];
    let mut bars: Vec<Bar> = Vec::new();
    // Narrow steps that lie together become one box: how many, and where it ends.
    let mut joined = 0usize;
    for (s, ((start_us, time_us), step)) in spans.into_iter().zip(&queue.steps).enumerate() {
        let (x, end) = (scale.x(start_us), scale.x(start_us + time_us));
        let kind = kind(plan, queue, step);
        let colour = colours.get(&kind).copied().unwrap_or("#b0aca4");
        let critical = timeline.is_critical((q, s));
        let narrow = end - x < NARROW_PX;
        let tip = format!("{} ({kind}): {} from {}", step.name, time_text(time_us), time_text(start_us));
        if let Some(last) =
            bars.last_mut().filter(|b| narrow && joined > 0 && x - (b.x + b.width) < NARROW_PX)
        {
            joined += 1;
            last.width = px(end.max(last.x + last.width) - last.x);
            last.tip = format!("{joined} short steps up to {tip}");
            last.critical |= critical;
            continue;
        }
        joined = usize::from(narrow);
        let width = px((end - x).max(0.5));
        let label = label(&step.name, width);
        bars.push(Bar { x: px(x), width, colour, label, tip, critical });
    }
    Lane { name: queue.name.clone(), y: 0.0, height: 0.0, note: String::new(), bars }
}

/// As much of the end of a name as fits.
fn label(name: &str, width: f64) -> String {
    let fits = ((width - 6.0) / LETTER_PX).max(0.0) as usize;
    let short = name.rsplit('/').next().unwrap_or(name);
    let name = if name.chars().count() <= fits { name } else { short };
    let count = name.chars().count();
    match fits {
        0..=3 => String::new(),
        fits if count <= fits => name.to_owned(),
        fits => name.chars().take(fits - 1).chain(['…']).collect(),
    }
}

/// Bytes of values that are alive on each device that holds any, for the sizes that predictions were made for.
pub(crate) fn memory(plan: &Plan, end_us: f64) -> Vec<MemoryChart> {
    (0..plan.devices.len()).filter_map(|device| memory_of(plan, device, end_us)).collect()
}

/// Bytes reserved at each position of the compute queue of a device, one position if it has no steps.
fn alive(plan: &Plan, device: usize, n_steps: usize) -> Vec<f64> {
    let n = n_steps.max(1);
    let mut changes = vec![0.0f64; n + 1];
    let own =
        plan.values.iter().filter(|v| v.device as usize == device && v.storage == Storage::Arena as i32);
    for value in own {
        let bytes = value_bytes(plan, value);
        changes[(value.first as usize).min(n)] += bytes;
        changes[(value.last as usize).saturating_add(1).min(n)] -= bytes;
    }
    let mut sum = 0.0;
    let alive = changes.into_iter().take(n).map(|change| {
        sum += change;
        f64::max(sum, 0.0)
    });
    alive.collect()
}

/// The most bytes alive at once on a device, for the sizes that predictions were made for.
pub(crate) fn peak_bytes(plan: &Plan, device: usize) -> f64 {
    let queue = plan.queues.iter().find(|q| !q.copies && q.device as usize == device);
    alive(plan, device, queue.map_or(0, |q| q.steps.len())).into_iter().fold(0.0, f64::max)
}

fn memory_of(plan: &Plan, device: usize, end_us: f64) -> Option<MemoryChart> {
    use crate::report::dot::size_text;
    let scale = Scale { end_us };
    let queue = plan.queues.iter().position(|q| !q.copies && q.device as usize == device)?;
    let alive = alive(plan, device, plan.queues[queue].steps.len());
    let start = |at: usize| step(plan, (queue, at)).map_or(end_us, |s| s.start_us);
    let column = |us: f64| (scale.x(us) - LEFT_PX) as usize;
    let mut columns = vec![0.0f64; TIME_PX as usize + 1];
    for (at, bytes) in alive.into_iter().enumerate() {
        // What is there before the first step is there from the start.
        let from = if at == 0 { 0 } else { column(start(at)) };
        columns[from..=column(start(at + 1)).max(from)].iter_mut().for_each(|c| *c = f64::max(*c, bytes));
    }
    let peak = columns.iter().copied().fold(0.0, f64::max);
    if peak <= 0.0 {
        return None;
    }
    let y = |bytes: f64| px(MEMORY_PX - (MEMORY_PX - 14.0) * bytes / peak);
    let mut points = format!("{LEFT_PX},{MEMORY_PX}");
    let mut last = f64::NAN;
    for (n, bytes) in columns.iter().take(TIME_PX as usize).enumerate() {
        if *bytes != last {
            let x = LEFT_PX + n as f64;
            let before = if last.is_nan() { *bytes } else { last };
            points += &format!(" {x},{} {x},{}", y(before), y(*bytes));
            last = *bytes;
        }
    }
    points += &format!(" {},{} {},{MEMORY_PX}", LEFT_PX + TIME_PX, y(last), LEFT_PX + TIME_PX);
    let row = &plan.devices[device];
    let weights = super::diff::weight_bytes(plan, device);
    let arena = if row.arena_bytes > 0 {
        format!("arena {}", size_text(row.arena_bytes as f64))
    } else {
        "arena sized at run time".to_owned()
    };
    let limit = if row.memory_bytes > 0 {
        format!(", of {}", size_text(row.memory_bytes as f64))
    } else {
        String::new()
    };
    Some(MemoryChart {
        name: row.name.clone(),
        width: LEFT_PX + TIME_PX + RIGHT_PX,
        height: MEMORY_PX,
        left: LEFT_PX,
        right: LEFT_PX + TIME_PX,
        points,
        peak: size_text(peak),
        note: format!("{arena}, weights {}{limit}", size_text(weights as f64)),
        ticks: scale.ticks(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_cut_to_their_box() {
        assert_eq!(label("/layer1/Conv", 200.0), "/layer1/Conv");
        assert_eq!(label("/layer1/Conv", 40.0), "Conv");
        assert_eq!(label("convolution", 50.0), "convol…");
        assert_eq!(label("convolution", 20.0), "");
    }

    #[test]
    fn ticks_are_round_numbers() {
        let labels =
            |end_us: f64| -> Vec<String> { Scale { end_us }.ticks().into_iter().map(|t| t.label).collect() };
        assert_eq!(
            labels(7.0),
            ["0.0 us", "1.0 us", "2.0 us", "3.0 us", "4.0 us", "5.0 us", "6.0 us", "7.0 us"]
        );
        assert!(labels(0.0).is_empty() && labels(f64::NAN).is_empty());
    }
}
