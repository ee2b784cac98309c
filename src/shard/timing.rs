//! From stage times to the time of a run: closed forms, and a simulation of every event that must agree with them.

/// Times of one replica's pipeline for one load, in us.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timing {
    /// Time of a piece in each stage.
    pub stage_us: Vec<f64>,
    /// Time from each stage to the next.
    pub hop_us: Vec<f64>,
    /// Time from the last stage back to the first: the token just written.
    pub back_us: f64,
}

impl Timing {
    /// Time of one piece from the first stage to the end of the last.
    pub fn through_us(&self) -> f64 {
        self.stage_us.iter().sum::<f64>() + self.hop_us.iter().sum::<f64>()
    }

    /// The slowest stage or hop.
    pub fn slowest_us(&self) -> f64 {
        self.stage_us.iter().chain(&self.hop_us).copied().fold(0.0, f64::max)
    }

    /// Time of a round in which each of `pieces` pieces writes one token: the way round, or the slowest stage's work.
    pub fn round_us(&self, pieces: u64) -> f64 {
        (self.through_us() + self.back_us).max(pieces as f64 * self.slowest_us())
    }

    /// Time to send `pieces` pieces through once.
    pub fn pass_us(&self, pieces: u64) -> f64 {
        self.through_us() + pieces.saturating_sub(1) as f64 * self.slowest_us()
    }

    /// Time of `rounds` rounds from an empty pipeline to an empty one.
    pub fn rounds_us(&self, pieces: u64, rounds: u64) -> f64 {
        if rounds == 0 {
            return 0.0;
        }
        (rounds - 1) as f64 * self.round_us(pieces) + self.pass_us(pieces)
    }
}

/// Plays every event: stages and hops are served one piece at a time, in the order of arrival; a piece starts its next
/// round when its token is back at the first stage. Returns when the last piece has left.
pub fn simulate(timing: &Timing, pieces: u64, rounds: u64) -> f64 {
    let stages = timing.stage_us.len();
    let mut stage_free = vec![0.0_f64; stages];
    let mut hop_free = vec![0.0_f64; stages];
    // When each piece may enter the first stage.
    let mut ready = vec![0.0_f64; pieces as usize];
    let mut end = 0.0_f64;
    for _ in 0..rounds {
        for piece in &mut ready {
            let mut now = *piece;
            for stage in 0..stages {
                let start = now.max(stage_free[stage]);
                now = start + timing.stage_us[stage];
                stage_free[stage] = now;
                if let Some(&hop) = timing.hop_us.get(stage) {
                    let start = now.max(hop_free[stage]);
                    now = start + hop;
                    hop_free[stage] = now;
                }
            }
            end = end.max(now);
            *piece = now + timing.back_us;
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_stage_is_its_time() {
        let timing = Timing { stage_us: vec![3.0], ..Timing::default() };
        assert_eq!(timing.rounds_us(2, 5), 30.0);
        assert_eq!(simulate(&timing, 2, 5), 30.0);
        assert_eq!(timing.rounds_us(2, 0), 0.0);
    }

    proptest! {
        #[test]
        fn the_closed_form_is_the_simulation(
            stages in prop::collection::vec(0.1_f64..100.0, 1..12),
            hop in 0.0_f64..30.0,
            back in 0.0_f64..30.0,
            pieces in 1_u64..9,
        ) {
            let hops = vec![hop; stages.len() - 1];
            let back_us = if stages.len() > 1 { back } else { 0.0 };
            let timing = Timing { stage_us: stages, hop_us: hops, back_us };
            let (formula, played) = (timing.rounds_us(pieces, 128), simulate(&timing, pieces, 128));
            prop_assert!((formula / played - 1.0).abs() < 0.01, "{formula} {played}");
            let once = simulate(&timing, pieces, 1);
            prop_assert!((timing.pass_us(pieces) - once).abs() < 1e-6 * once);
        }
    }
}
