//! Calls that wait for a place in the batch: how many may, and whose turn it is. No engine, no thread, no clock.

use std::cmp::Reverse;

use super::error::Whose;

/// How often calls that came later may be taken before one that waits: then it is the next, whatever its rank.
const PATIENCE: u32 = 8;

/// An app as the queue knows it.
pub type AppKey = u64;

#[derive(Debug)]
struct Waiting<T> {
    call: T,
    app: AppKey,
    passed_over: u32,
}

/// A bounded queue, in the order in which calls came.
#[derive(Debug)]
pub struct Queue<T> {
    waiting: Vec<Waiting<T>>,
    most: usize,
    most_of_app: usize,
}

/// Whose bound is reached, how many wait, and how many may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    pub whose: Whose,
    pub waiting: usize,
    pub most: usize,
}

impl<T> Queue<T> {
    pub const fn new(most: usize, most_of_app: usize) -> Self {
        Self { waiting: Vec::new(), most, most_of_app }
    }

    /// Whether one more call of an app may wait.
    ///
    /// # Errors
    /// If it may not.
    pub fn check(&self, app: AppKey) -> Result<(), Full> {
        let own = self.waiting.iter().filter(|waiting| waiting.app == app).count();
        let all = self.waiting.len();
        if own >= self.most_of_app {
            return Err(Full { whose: Whose::ThisApp, waiting: own, most: self.most_of_app });
        }
        if all >= self.most {
            return Err(Full { whose: Whose::AllApps, waiting: all, most: self.most });
        }
        Ok(())
    }

    /// A call waits, whether or not it may.
    pub fn push(&mut self, app: AppKey, call: T) {
        self.waiting.push(Waiting { call, app, passed_over: 0 });
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The call whose turn it is: of the highest rank, of the app that has fewest under way, the oldest; but before all that one
    /// that was passed over too often.
    pub fn take(&mut self, rank: impl Fn(AppKey) -> u8, under_way: impl Fn(AppKey) -> usize) -> Option<T> {
        let turn = |place: usize| {
            let Waiting { app, passed_over, .. } = self.waiting[place];
            let is_due = passed_over >= PATIENCE;
            // Of those that are due the oldest, whoever's it is.
            let (rank, under_way) = if is_due { (0, 0) } else { (rank(app), under_way(app)) };
            (is_due, rank, Reverse(under_way), Reverse(place))
        };
        let place = (0..self.waiting.len()).max_by_key(|place| turn(*place))?;
        self.waiting[..place].iter_mut().for_each(|older| older.passed_over += 1);
        Some(self.waiting.remove(place).call)
    }

    /// Takes those out that nobody wants any more.
    pub fn take_if(&mut self, is_unwanted: impl Fn(&T) -> bool) -> Vec<T> {
        let taken = self.waiting.extract_if(.., |waiting| is_unwanted(&waiting.call));
        taken.map(|waiting| waiting.call).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn rank(app: AppKey) -> u8 {
        app as u8
    }

    #[test]
    fn the_foreground_comes_first_and_nobody_waits_for_ever() {
        let mut queue = Queue::new(100, 100);
        queue.push(1, "background");
        let mut taken = Vec::new();
        for _ in 0..=PATIENCE {
            queue.push(9, "foreground");
            taken.extend(queue.take(rank, |_| 0));
        }
        let before = taken.iter().position(|call| *call == "background").unwrap();
        assert_eq!(before as u32, PATIENCE);
        assert_eq!((taken.len(), queue.len()), (PATIENCE as usize + 1, 1));
    }

    #[test]
    fn of_one_rank_apps_take_turns() {
        let mut queue = Queue::new(100, 100);
        (0..3).for_each(|call| queue.push(1, (1, call)));
        queue.push(2, (2, 0));
        let mut under_way = [0; 3];
        let mut order = Vec::new();
        while let Some((app, call)) = queue.take(|_| 0, |app| under_way[app as usize]) {
            under_way[app as usize] += 1;
            order.push((app, call));
        }
        assert_eq!(order, [(1, 0), (2, 0), (1, 1), (1, 2)]);
    }

    #[test]
    fn one_app_cannot_fill_it() {
        let mut queue = Queue::new(3, 2);
        for app in [1, 1, 2] {
            queue.check(app).unwrap();
            queue.push(app, app);
        }
        assert_eq!(queue.check(1), Err(Full { whose: Whose::ThisApp, waiting: 2, most: 2 }));
        assert_eq!(queue.check(2), Err(Full { whose: Whose::AllApps, waiting: 3, most: 3 }));
        assert_eq!(queue.take_if(|app| *app == 1), [1, 1]);
        assert_eq!((queue.len(), queue.check(1)), (1, Ok(())));
    }
}
