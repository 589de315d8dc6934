//! Job lists against those of two other implementations of the generator. Knows their sums and digests, not their files.

use super::*;

/// What two other implementations of the same generator gave for a list of jobs: the list's digest, and by stream jobs, tasks, and CPU of all
/// tasks in ten-thousandths of a core.
struct Known {
    cell: &'static CellShape,
    seed: u64,
    horizon: f64,
    rate: f64,
    digest: u64,
    sums: [(u64, u64, u64); 3],
}

const R1_PREFILL: (u64, u64, u64) = (460, 2396, 23_960_000);
const R2_PREFILL: (u64, u64, u64) = (5395, 51_172, 239_866_289);

const KNOWN: [Known; 6] = [
    Known {
        cell: &R1,
        seed: 1,
        horizon: 86_400.0,
        rate: 1.0,
        digest: 0x5f5f_2e6c_53b8_c336,
        sums: [(21_546, 222_843, 1_114_215_000), (869, 4631, 46_310_000), R1_PREFILL],
    },
    Known {
        cell: &R1,
        seed: 3,
        horizon: 86_400.0,
        rate: 1.0,
        digest: 0xdf56_eff0_a27e_cc39,
        sums: [(21_794, 228_938, 1_144_690_000), (866, 5024, 50_240_000), (439, 2398, 23_980_000)],
    },
    Known {
        cell: &R1,
        seed: 1,
        horizon: 14_400.0,
        rate: 32.0,
        digest: 0x9742_ea11_5855_c198,
        sums: [(115_398, 1_212_522, 6_062_610_000), (141, 734, 7_340_000), R1_PREFILL],
    },
    Known {
        cell: &R2,
        seed: 1,
        horizon: 86_400.0,
        rate: 1.0,
        digest: 0x1259_b8ac_01ce_df04,
        sums: [(24_596, 708_824, 998_144_177), (560, 5052, 29_354_395), R2_PREFILL],
    },
    Known {
        cell: &R2,
        seed: 1,
        horizon: 7200.0,
        rate: 16.0,
        digest: 0xf396_f668_62d7_92bb,
        sums: [(32_798, 965_616, 1_345_116_779), (47, 732, 4_911_483), R2_PREFILL],
    },
    Known {
        cell: &R3,
        seed: 1,
        horizon: 86_400.0,
        rate: 1.0,
        digest: 0x7f85_5ca8_5f4a_cfa6,
        sums: [(24_596, 708_824, 998_144_177), (560, 5052, 29_354_395), (7620, 73_002, 339_930_307)],
    },
];

fn sums(jobs: &[JobPlan], stream: Stream) -> (u64, u64, u64) {
    let of = jobs.iter().filter(|job| job.stream == stream);
    of.fold((0, 0, 0), |sums, job| {
        let tasks = u64::from(job.tasks);
        (sums.0 + 1, sums.1 + tasks, sums.2 + job.cpu * tasks)
    })
}

/// FNV-1a: enough to see that a byte differs.
fn digest(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[test]
fn job_lists_are_those_of_the_other_implementations_byte_for_byte() {
    for known in &KNOWN {
        let jobs = known.cell.jobs(known.seed, known.horizon, known.rate);
        let found = [Stream::Batch, Stream::Service, Stream::Prefill].map(|stream| sums(&jobs, stream));
        assert_eq!(found, known.sums, "{} seed {}", known.cell.name, known.seed);
        assert_eq!(digest(&rows(&jobs)), known.digest, "{} seed {}", known.cell.name, known.seed);
    }
}

#[test]
fn a_job_is_the_same_whatever_the_horizon() {
    let (short, long) = (R2.jobs(1, 3600.0, 1.0), R2.jobs(1, 7200.0, 1.0));
    assert!(short.len() < long.len());
    assert!(short.iter().all(|job| long.contains(job)));
}

#[test]
fn the_first_rows_read_as_they_are_written() {
    let text = rows(&R2.jobs(1, 86_400.0, 1.0)[..2]);
    assert_eq!(text, "Batch,0,0.069476,2,211.629,0.0722,0.7707\nBatch,1,10.377695,1,24.041,0.0386,0.1592\n");
}

#[test]
fn a_number_is_rounded_by_its_value_and_not_by_a_product_of_it() {
    // A little above the half, and the product is exactly on it.
    assert_eq!(58_584.308_148_5_f64 * 1e6 % 1.0, 0.5);
    assert_eq!(rounded(58_584.308_148_5, 6), 58_584_308_149);
    assert_eq!((rounded(0.5, 0), rounded(1.5, 0), rounded(2.25, 1)), (0, 2, 22));
}
