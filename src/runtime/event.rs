//! A counter that threads wait on: they spin for a moment, then sleep until it moves.
//!
//! A wait between queues usually lasts microseconds, where going to sleep would cost more than the wait; a
//! session that is not running must not burn a core. Nothing is allocated.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

/// A counter on its own pair of cache lines, so that waiting for one queue does not slow another.
#[repr(align(128))]
#[derive(Default)]
pub(crate) struct Event {
    count: AtomicU32,
    sleepers: AtomicU32,
    lock: Mutex<()>,
    moved: Condvar,
}

impl Event {
    pub(crate) fn count(&self) -> u32 {
        self.count.load(Ordering::SeqCst)
    }

    /// Sets the count and wakes who sleeps.
    pub(crate) fn set(&self, count: u32) {
        self.count.store(count, Ordering::SeqCst);
        self.wake();
    }

    /// Adds one (wrapping) and wakes who sleeps.
    pub(crate) fn add_one(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.wake();
    }

    /// Makes sleepers look again. Sequential consistency makes the check of `sleepers` safe: a waiter counts
    /// itself before it looks at the counter a last time, we change the counter before we look at `sleepers`.
    pub(crate) fn wake(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.moved.notify_all();
        }
    }

    /// Waits until `ready(count)`; looks `spins` times before it sleeps. False when `stop` was set first; who
    /// sets `stop` must call [`Event::wake`].
    pub(crate) fn wait(&self, spins: u32, stop: &AtomicBool, ready: impl Fn(u32) -> bool) -> bool {
        for _ in 0..spins {
            if ready(self.count.load(Ordering::Acquire)) {
                return true;
            }
            if stop.load(Ordering::Relaxed) {
                return false;
            }
            std::hint::spin_loop();
        }
        self.sleep(stop, ready)
    }

    #[cold]
    fn sleep(&self, stop: &AtomicBool, ready: impl Fn(u32) -> bool) -> bool {
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let arrived = loop {
            if ready(self.count()) {
                break true;
            }
            if stop.load(Ordering::SeqCst) {
                break false;
            }
            guard = self.moved.wait(guard).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        arrived
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_threads_take_turns() {
        let (ping, pong, never) = (Event::default(), Event::default(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for turn in 1..=2000 {
                    assert!(ping.wait(turn % 40, &never, |c| c >= turn));
                    pong.set(turn);
                }
            });
            for turn in 1..=2000 {
                ping.add_one();
                assert!(pong.wait(turn % 30, &never, |c| c >= turn));
            }
        });
        assert_eq!(pong.count(), 2000);
    }

    #[test]
    fn stop_ends_a_sleep() {
        let (event, stop) = (Event::default(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| event.wait(0, &stop, |c| c > 0));
            stop.store(true, Ordering::SeqCst);
            // The waiter may count itself after the first wake; wake until it is gone.
            while !waiter.is_finished() {
                event.wake();
                std::thread::yield_now();
            }
            assert!(!waiter.join().unwrap());
        });
    }
}
