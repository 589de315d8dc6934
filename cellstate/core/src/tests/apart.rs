//! Stories of two namespaces and of two partitions: what is the one's counts for nobody else.

use super::story::check;

// Were the victim's part credited to whoever evicts it, a namespace without any quota left could grow by what it takes from another one.
#[test]
fn whom_a_claim_evicts_gives_quota_back_to_his_own_namespace_only() {
    check(
        "
        machine m1 cpu=3000
        machine m2 cpu=4000
        job own by batch tasks=1 cpu=3000 prio=10
        job theirs by batch tasks=1 cpu=4000 prio=10 in=other
        job high by ml tasks=1 cpu=3000 prio=90
        quota default cpu=3000
        quota other cpu=4000
        batch: claim own[0]@m1 claim theirs[0]@m2
        ml: claim high[0]@m2 victim=theirs[0]
        show theirs[0]
        used? default
        ml: claim high[0]@m1 victim=own[0]
        used? default
        used? other
        ",
        "
        batch: committed; own[0] granted; theirs[0] granted
        ml: refused; high[0] quota QuotaExceeded short cpu_millis 3000
        theirs[0] Granted
        default uses 3000
        ml: committed; high[0] granted over own[0] 3000
        default uses 3000
        other uses 4000
        ",
    );
}

#[test]
fn a_hold_gives_quota_back_to_its_own_namespace_only() {
    check(
        "
        machine m1 cpu=1000
        machine m2 cpu=1000
        job early by ml tasks=2 cpu=1000 prio=90
        job theirs by ml tasks=1 cpu=1000 prio=10 in=other
        quota default cpu=1000
        quota other cpu=1000
        hold early m1 cpu=1000
        hold theirs m2 cpu=1000
        hold early m1,m2 cpu=1000
        hold? early
        hold? theirs
        quota default cpu=2000
        hold early m1,m2 cpu=1000
        hold? early
        hold? theirs
        used? default
        used? other
        ",
        "
        NO_ROOM_TO_HOLD: the quota of default is short of cpu by 1000m for early to hold that
        early holds [m1] for 60
        theirs holds [m2] for 60
        early holds [m1 m2] for 60
        theirs holds [] for 60
        default uses 2000
        other uses 0
        ",
    );
}

#[test]
fn of_several_partitions_each_is_closed_to_those_whom_it_does_not_list() {
    check(
        "
        machine m1 cpu=4000 rack=a
        machine m2 cpu=4000 rack=b
        machine m3 cpu=4000
        job web by service tasks=3 cpu=1000
        job map by batch tasks=2 cpu=1000
        partition east rack=a for=ml
        partition west rack=b for=batch
        service: claim web[0]@m1 claim web[1]@m2 claim web[2]@m3
        hold web m1 cpu=1000
        hold web m2 cpu=1000
        batch: claim map[0]@m1 claim map[1]@m2
        ",
        "
        service: partial; web[0] permission NotPermitted; web[1] permission NotPermitted; web[2] granted
        NO_ROOM_TO_HOLD: m1 is reserved for other schedulers than service by a partition
        NO_ROOM_TO_HOLD: m2 is reserved for other schedulers than service by a partition
        batch: partial; map[0] permission NotPermitted; map[1] granted
        ",
    );
}
