//! Stories of quotas, and of the right to evict.

use super::story::check;

#[test]
fn a_quota_counts_allocations_and_holds_that_are_neither_leaving_nor_lost() {
    check(
        "
        machine m1 cpu=9000
        machine m2 cpu=9000
        job web by service tasks=4 cpu=1000
        service: claim web[0]@m1 web[1]@m2
        quota default cpu=8000
        used? default
        service: claim web[2]@m1
        hold web m1,m2 cpu=500 for=300
        used? default
        service: stop web[0]
        used? default
        report web[0] stopped
        used? default
        expire m2
        wait 60
        used? default
        unhold web
        used? default
        restart
        used? default
        stopjob web
        used? default
        ",
        "
        service: committed; web[0] granted; web[1] granted
        default uses 2000
        service: committed; web[2] granted
        default uses 4000
        service: committed
        default uses 3000
        default uses 3000
        default uses 2000
        default uses 1000
        default uses 1000
        default uses 0
        ",
    );
}

#[test]
fn a_quota_can_be_lowered_below_what_is_used_and_removed() {
    check(
        "
        machine m1 cpu=9000
        job web by service tasks=2 cpu=1000
        service: claim web[0]@m1 web[1]@m1
        quota default cpu=1000
        used? default
        show web[1]
        quota default
        quota default
        ",
        "
        service: committed; web[0] granted; web[1] granted
        default uses 2000
        web[1] Granted
        NO_SUCH_QUOTA: the namespace default has no quota; there is nothing to remove
        ",
    );
}

// Where nobody could be evicted what is short was left out, and the right to evict asked for in vain.
#[test]
fn the_right_to_evict_is_not_what_is_missing_where_nobody_could_be_evicted() {
    check(
        "
        machine m1 cpu=1000
        job same by batch tasks=1 cpu=1000 prio=50
        job gang by ml tasks=1 cpu=1000 prio=50
        batch: claim same[0]@m1
        ml: claim gang[0]@m1 victim=same[0]
        rights ml evicts=no
        ml: claim gang[0]@m1 victim=same[0]
        ",
        "
        batch: committed; same[0] granted
        ml: refused; gang[0] misfit NoRoom short cpu_millis 1000
        ml: refused; gang[0] misfit NoRoom short cpu_millis 1000
        ",
    );
}

// The victim's part of the quota was not seen: its better was refused though nothing would have grown.
#[test]
fn a_scheduler_that_may_not_evict_gets_what_is_free_and_no_more() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=4000
        job low by batch tasks=2 cpu=3000 prio=10
        job high by ml tasks=3 cpu=2000 prio=90
        job small by ml tasks=1 cpu=1000 prio=90
        batch: claim low[0]@m1 low[1]@m2
        rights ml evicts=no
        rights ml evicts=no
        ml: claim high[0]@m1 victim=low[0]
        ml: claim high[0]@m1
        ml: claim small[0]@m1 victim=low[0]
        show low[0]
        restart
        ml: claim high[0]@m1 victim=low[0] or=m2
        rights ml priority=4
        rights ml priority=101
        rights ml evicts=yes
        ml: claim high[0]@m1 victim=low[0]
        show low[0]
        ",
        "
        batch: committed; low[0] granted; low[1] granted
        ml: refused; high[0] permission MayNotEvict
        ml: refused; high[0] misfit NoRoom short cpu_millis 1000
        ml: committed; small[0] granted
        low[0] Granted
        ml: refused; high[0] permission MayNotEvict
        INVALID_REQUEST: priority 101; expected 1 to 100
        ml: committed; high[0] granted over low[0] 2000
        low[0] Evicting
        ",
    );
}

#[test]
fn a_claim_may_have_the_quota_of_whom_it_evicts_and_no_more() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=4000
        job low by batch tasks=1 cpu=4000 prio=10
        job high by ml tasks=1 cpu=3000 prio=90
        job small by batch tasks=1 cpu=1000 prio=10
        job large by ml tasks=1 cpu=4000 prio=90
        quota default cpu=4000
        batch: claim low[0]@m1
        ml: claim high[0]@m1 victim=low[0]
        used? default
        batch: claim small[0]@m2
        ml: claim large[0]@m2 victim=small[0]
        show small[0]
        ",
        "
        batch: committed; low[0] granted
        ml: committed; high[0] granted over low[0] 3000
        default uses 3000
        batch: committed; small[0] granted
        ml: refused; large[0] quota QuotaExceeded short cpu_millis 3000
        small[0] Granted
        ",
    );
}
