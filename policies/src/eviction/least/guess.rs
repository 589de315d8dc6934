//! Good answers at once, so that the search for better ones rules much out, or has one to fall back on.

use std::cmp::Reverse;

use super::{Parts, Search, Tenant, is_covered, less, more};

/// A tenant with what it gives.
type Given = (Parts, Tenant);

impl Search<'_> {
    /// All of them, who are enough, go but for those without whom it is enough still, asked from the dearest on, and of these from those that give least on. `None`:
    /// that would be more than can be named.
    pub(super) fn spare_the_dearest(&self, all: &[Tenant]) -> Option<Vec<Tenant>> {
        let mut order: Vec<Given> = all.iter().map(|tenant| (self.parts(tenant), *tenant)).collect();
        let dear = |tenant: &Tenant| (tenant.is_torn, tenant.priority, tenant.is_service);
        order.sort_unstable_by(|(left, one), (right, other)| {
            let by_age = one.created.cmp(&other.created).then(one.id.slot.cmp(&other.id.slot));
            dear(other).cmp(&dear(one)).then_with(|| left.cmp(right)).then(by_age)
        });
        let mut missing = order.iter().fold(self.missing, |left, (parts, _)| less(left, parts));
        let (mut victims, mut rest) = (Vec::new(), &order[..]);
        while !rest.is_empty() {
            let (stay, others) = rest.split_at(self.can_stay(&victims, rest, &missing));
            missing = stay.iter().fold(missing, |missing, (parts, _)| more(missing, parts));
            rest = others;
            let Some(((_, victim), others)) = rest.split_first() else { break };
            if victims.len() >= self.most {
                return None;
            }
            victims.push(*victim);
            rest = others;
        }
        Some(victims)
    }

    /// How many of the `rest`, from the first on, can stay when the others of them go, and these `victims`. So much is missing, or none, when all of both go.
    fn can_stay(&self, victims: &[Tenant], rest: &[Given], missing: &Parts) -> usize {
        let mut left = *missing;
        let has_room = |(parts, _): &&Given| {
            left = more(left, parts);
            is_covered(&left)
        };
        let roomy = rest.iter().take_while(has_room).count();
        self.look(roomy + 1);
        if self.wanting.enough.is_none() {
            return roomy;
        }
        // The more stay, the less there is: few questions find how many can, where one for each of thousands would be asked about thousands.
        let (mut can, mut cannot) = (0, roomy + 1);
        while cannot - can > 1 {
            let middle = usize::midpoint(can, cannot);
            let go = victims.iter().chain(rest[middle..].iter().map(|(_, tenant)| tenant));
            if self.has_else(go) {
                can = middle;
            } else {
                cannot = middle;
            }
        }
        can
    }

    /// Where the cheapest would be too many: those who give most of what is missing, or hold what else is needed and give most; but for those of them who can stay.
    pub(super) fn take_the_largest(&self, all: &[Tenant]) -> Option<Vec<Tenant>> {
        let share = |tenant: &Tenant| -> i128 {
            let short = self.missing.iter().zip(self.parts(tenant)).filter(|(missing, _)| **missing > 0);
            short.map(|(&missing, part)| i128::from(part.min(missing)) * 1_000_000 / i128::from(missing)).sum()
        };
        let largest = |by_rest: bool| {
            let mut largest = all.to_vec();
            largest.sort_by_cached_key(|tenant| {
                (
                    !(by_rest && tenant.is_special),
                    Reverse(share(tenant)),
                    tenant.is_torn,
                    tenant.priority,
                    tenant.id.slot,
                )
            });
            largest.truncate(self.most);
            let missing = largest.iter().fold(self.missing, |missing, tenant| less(missing, &self.parts(tenant)));
            self.look(all.len());
            self.is_enough(&missing, &largest).then_some(largest)
        };
        let largest = largest(false).or_else(|| self.wanting.enough.and_then(|_| largest(true)))?;
        self.spare_the_dearest(&largest)
    }
}
