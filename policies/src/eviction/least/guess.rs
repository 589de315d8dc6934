//! Good answers at once, so that the search for better ones rules much out, or has one to fall back on.

use std::cmp::Reverse;

use super::{Parts, Search, Tenant, is_covered, less, more};

impl Search<'_> {
    /// All of them, who are enough, go but for those without whom it is enough still, asked from the dearest on, and of these from those that give least on. `None`:
    /// that would be more than can be named.
    pub(super) fn spare_the_dearest(&self, all: &[Tenant]) -> Option<Vec<Tenant>> {
        let mut order: Vec<(Parts, Tenant)> = all.iter().map(|tenant| (self.parts(tenant), *tenant)).collect();
        let dear = |tenant: &Tenant| (tenant.is_torn, tenant.priority, tenant.is_service);
        order.sort_unstable_by(|(left, one), (right, other)| {
            let by_age = one.created.cmp(&other.created).then(one.id.slot.cmp(&other.id.slot));
            dear(other).cmp(&dear(one)).then_with(|| left.cmp(right)).then(by_age)
        });
        let mut left = order.iter().fold(self.missing, |left, (parts, _)| less(left, parts));
        let mut victims: Vec<Tenant> = order.iter().map(|(_, tenant)| *tenant).collect();
        let mut place = 0;
        for (parts, tenant) in &order {
            let without = more(left, parts);
            if is_covered(&without) {
                victims.remove(place);
                if self.is_enough(&without, &victims) {
                    left = without;
                    continue;
                }
                victims.insert(place, *tenant);
            }
            place += 1;
        }
        (victims.len() <= self.most).then_some(victims)
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
            self.is_enough(&missing, &largest).then_some(largest)
        };
        let largest = largest(false).or_else(|| self.wanting.enough.and_then(|_| largest(true)))?;
        self.spare_the_dearest(&largest)
    }
}
