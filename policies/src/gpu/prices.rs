//! What a part of a GPU is worth, from the best packing of the expected work.
//!
//! Parts of GPUs that are asked for are pieces to be cut from GPUs. The fewest GPUs that all of them need, per task, is a linear programme (the cutting-stock
//! problem), and its dual prices say what each piece costs in GPUs: 0.5 for one that is best cut twice from a GPU, 1.0 for one beside which
//! nothing worth anything fits, 0 for crumbs that always fit into what is lost anyway. What a hole is worth is then the most that pieces cut from it fetch.
//!
//! Solved by column generation: the patterns of the basis have prices, the pattern that fetches most at these prices enters, until none fetches more than
//! a GPU. Sizes are hundredths of a GPU, rounded up, so that there are at most 99 rows; holes are rounded down.
//!
//! Source: Gilmore and Gomory, *A Linear Programming Approach to the Cutting-Stock Problem* (Operations Research 9, 1961).

use super::target::Target;

/// Sizes of holes that are told apart, beside the empty one.
pub const SIZES: usize = 100;

/// Thousandths in a hundredth.
const MILLIS: u16 = 10;

/// Steps of the simplex method: published workloads take some dozens. Past it the prices found so far are scaled down to where they are right for any packing.
const STEPS_MAX: usize = 2000;

/// What counts as nothing, in GPUs.
const NOTHING: f64 = 1e-9;

/// Prices of pieces and values of holes, in GPUs.
#[derive(Clone, Debug, PartialEq)]
pub struct Prices {
    /// By size in hundredths.
    pieces: [f64; SIZES + 1],
    /// By hundredths that are left.
    holes: [f64; SIZES + 1],
    /// GPUs for one task of the expected work, at best, those of tasks that take whole ones left out. Parts are rounded up to hundredths.
    gpus_a_task: f64,
}

impl Prices {
    /// For this work.
    #[must_use]
    pub fn new(target: &Target) -> Self {
        let mut demand = [0.0; SIZES + 1];
        for (millis, weight) in target.shares() {
            demand[usize::from(millis.div_ceil(MILLIS))] += weight;
        }
        // A piece of hundredths that round up to a whole GPU is cut alone, like a whole one.
        let sizes = (1..SIZES).rev().filter(|size| demand[*size] > 0.0).collect::<Vec<_>>();
        let wanted = sizes.iter().map(|size| demand[*size]).collect::<Vec<_>>();
        let mut pieces = [0.0; SIZES + 1];
        pieces[SIZES] = 1.0;
        for (size, price) in sizes.iter().zip(dual_prices(&sizes, &wanted)) {
            pieces[*size] = price;
        }
        let (mut holes, _) = fetch(&sizes, |row| pieces[sizes[row]]);
        // A whole GPU also serves whoever wants a whole one.
        holes[SIZES] = 1.0;
        let gpus_a_task = pieces.iter().zip(&demand).map(|(price, demand)| price * demand).sum();
        Self { pieces, holes, gpus_a_task }
    }

    /// What a part of a GPU costs; 1 for a whole one.
    #[must_use]
    pub fn piece(&self, millis: u16) -> f64 {
        self.pieces[usize::from(millis.div_ceil(MILLIS)).min(SIZES)]
    }

    /// The most that pieces cut from what is left of a GPU cost together.
    #[must_use]
    pub fn hole(&self, millis: u16) -> f64 {
        self.holes[usize::from(millis / MILLIS).min(SIZES)]
    }

    /// The fewest GPUs that tasks with a part of one can do with, for each task of the expected work: a bound for whoever places it, where parts are whole
    /// hundredths. Others count rounded up, and may do with fewer: of 0.333 three fit into a GPU, and of 0.34 two.
    #[must_use]
    pub fn gpus_a_task(&self) -> f64 {
        self.gpus_a_task
    }
}

/// The most that pieces fetch for each room, and the piece that is cut first, if any.
fn fetch(sizes: &[usize], price: impl Fn(usize) -> f64) -> ([f64; SIZES + 1], [Option<usize>; SIZES + 1]) {
    let (mut worth, mut first) = ([0.0; SIZES + 1], [None; SIZES + 1]);
    for room in 1..=SIZES {
        worth[room] = worth[room - 1];
        for (row, size) in sizes.iter().enumerate().filter(|(_, size)| **size <= room) {
            let with = worth[room - size] + price(row);
            if with > worth[room] + NOTHING {
                (worth[room], first[room]) = (with, Some(row));
            }
        }
    }
    (worth, first)
}

/// The pattern that fetches most: how often each piece is cut from a whole GPU.
fn pattern(sizes: &[usize], first: &[Option<usize>; SIZES + 1]) -> Vec<f64> {
    let (mut pieces, mut room) = (vec![0.0; sizes.len()], SIZES);
    while room > 0 {
        match first[room] {
            None => room -= 1,
            Some(row) => {
                pieces[row] += 1.0;
                room -= sizes[row];
            }
        }
    }
    pieces
}

/// The simplex method's basis: its inverse, what each of its columns costs (1 for a pattern, 0 for a surplus), and how much of each is used.
struct Basis {
    inverse: Vec<Vec<f64>>,
    costs: Vec<f64>,
    used: Vec<f64>,
}

impl Basis {
    /// Each piece cut alone, as often as it goes.
    fn alone(sizes: &[usize], wanted: &[f64]) -> Self {
        let rows = sizes.len();
        let mut inverse = vec![vec![0.0; rows]; rows];
        let mut used = Vec::with_capacity(rows);
        for (row, size) in sizes.iter().enumerate() {
            inverse[row][row] = 1.0 / f64::from(u32::try_from(SIZES / size).expect("at most 100"));
            used.push(wanted[row] * inverse[row][row]);
        }
        Self { inverse, costs: vec![1.0; rows], used }
    }

    fn prices(&self) -> Vec<f64> {
        let mut prices = vec![0.0; self.costs.len()];
        for (cost, line) in self.costs.iter().zip(&self.inverse) {
            prices.iter_mut().zip(line).for_each(|(price, cell)| *price += cost * cell);
        }
        prices
    }

    /// Takes a column in, for the one that it drives to nothing first. False when there is none, which cannot be with costs of at least 0.
    fn enter(&mut self, column: &[f64], cost: f64) -> bool {
        let product = |line: &Vec<f64>| line.iter().zip(column).map(|(cell, amount)| cell * amount).sum::<f64>();
        let direction = self.inverse.iter().map(product).collect::<Vec<_>>();
        let rows = (0..direction.len()).filter(|row| direction[*row] > NOTHING);
        let steps = rows.map(|row| (self.used[row] / direction[row], row));
        let Some((step, leaving)) = steps.min_by(|one, other| one.0.total_cmp(&other.0)) else { return false };
        let pivot = self.inverse[leaving].iter().map(|cell| cell / direction[leaving]).collect::<Vec<_>>();
        for (row, line) in self.inverse.iter_mut().enumerate() {
            if row != leaving {
                self.used[row] = (self.used[row] - step * direction[row]).max(0.0);
                line.iter_mut().zip(&pivot).for_each(|(cell, amount)| *cell -= direction[row] * amount);
            }
        }
        (self.used[leaving], self.costs[leaving], self.inverse[leaving]) = (step, cost, pivot);
        true
    }
}

/// The dual prices of pieces: none below 0, and no pattern fetches more than one GPU.
fn dual_prices(sizes: &[usize], wanted: &[f64]) -> Vec<f64> {
    let mut basis = Basis::alone(sizes, wanted);
    for _ in 0..STEPS_MAX {
        let prices = basis.prices();
        let cheapest = (0..prices.len()).min_by(|one, other| prices[*one].total_cmp(&prices[*other]));
        let entered = match cheapest {
            // More of this piece than is wanted would save GPUs.
            Some(row) if prices[row] < -NOTHING => {
                let mut surplus = vec![0.0; sizes.len()];
                surplus[row] = -1.0;
                basis.enter(&surplus, 0.0)
            }
            _ => {
                let (worth, first) = fetch(sizes, |row| prices[row]);
                worth[SIZES] > 1.0 + 1e-7 && basis.enter(&pattern(sizes, &first), 1.0)
            }
        };
        if !entered {
            break;
        }
    }
    let mut prices = basis.prices();
    prices.iter_mut().for_each(|price| *price = price.clamp(0.0, 1.0));
    // Farley's bound: prices that fetch more than a GPU somewhere are right once they are scaled to it.
    let most = fetch(sizes, |row| prices[row]).0[SIZES];
    if most > 1.0 {
        prices.iter_mut().for_each(|price| *price = (*price / most).min(1.0));
    }
    prices
}

#[cfg(test)]
mod tests;
