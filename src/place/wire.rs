//! Transfer times in one form for both communication models: `latency[a][b] + size[tensor] * per[a][b]`.

use crate::problem::{CommModel, Problem};

/// Transfer times of a problem; infinite where there is no path, zero within a device.
#[derive(Debug, Clone)]
pub(crate) struct Wire {
    k: usize,
    latency_us: Vec<f64>,
    per: Vec<f64>,
    size: Vec<f64>,
}

impl Wire {
    pub(crate) fn new(p: &Problem) -> Wire {
        let k = p.devices.len();
        let (mut latency_us, mut per) = (vec![0.0; k * k], vec![0.0; k * k]);
        for (a, b) in (0..k).flat_map(|a| (0..k).map(move |b| (a, b))).filter(|(a, b)| a != b) {
            (latency_us[a * k + b], per[a * k + b]) = match &p.comm {
                CommModel::Links => {
                    p.links[a][b].map_or((f64::INFINITY, 0.0), |l| (l.latency_us, l.us_per_byte))
                }
                CommModel::Endpoint { charged, .. } => {
                    (0.0, f64::from(u8::from(charged[a])) + f64::from(u8::from(charged[b])))
                }
            };
        }
        let size = match &p.comm {
            CommModel::Links => p.tensors.iter().map(|t| t.bytes as f64).collect(),
            CommModel::Endpoint { cost_us, .. } => cost_us.clone(),
        };
        Wire { k, latency_us, per, size }
    }

    /// Microseconds for tensor `t` from device `a` to device `b`.
    pub(crate) fn us(&self, t: usize, a: usize, b: usize) -> f64 {
        let i = a * self.k + b;
        self.latency_us[i] + self.size[t] * self.per[i]
    }

    /// Microseconds for `messages` tensors of `size` together.
    pub(crate) fn sum_us(&self, messages: f64, size: f64, a: usize, b: usize) -> f64 {
        let i = a * self.k + b;
        if messages == 0.0 { 0.0 } else { messages * self.latency_us[i] + size * self.per[i] }
    }

    /// Size of tensor `t` in the unit [`Wire::us`] multiplies: bytes, or endpoint cost.
    pub(crate) fn size(&self, t: usize) -> f64 {
        self.size[t]
    }
}
