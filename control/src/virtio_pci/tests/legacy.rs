//! Drivers of the legacy interface.

use super::*;

const DEVICE_FEATURES: u64 = 0;
const DRIVER_FEATURES: u64 = 4;
const PAGE: u64 = 8;
const SIZE: u64 = 12;
const SELECT: u64 = 14;
const BELL: u64 = 16;
const STATUS: u64 = 18;
const REASONS: u64 = 19;
const MRG_RXBUF: u64 = 1 << 15;

impl Bench {
    #[track_caller]
    fn put(&mut self, register: u64, len_bytes: usize, value: u64) {
        self.try_put(register, len_bytes, value).unwrap();
    }

    fn try_put(&mut self, register: u64, len_bytes: usize, value: u64) -> Result<(), Refusal> {
        self.function.write_bar(LEGACY_BAR, register, &value.to_le_bytes()[..len_bytes], &mut self.device)
    }

    fn get(&mut self, register: u64, len_bytes: usize) -> u64 {
        let mut bytes = [0; 8];
        self.function.read_bar(LEGACY_BAR, register, &mut bytes[..len_bytes], &self.device);
        u64::from_le_bytes(bytes)
    }

    /// A driver as far as its queues 0 and 1, without DRIVER_OK.
    fn legacy() -> Self {
        let mut bench = Self::of(true);
        for status in [0, 1, 3] {
            bench.put(STATUS, 1, status);
        }
        bench.put(DRIVER_FEATURES, 4, MRG_RXBUF);
        for index in 0..2 {
            bench.put(SELECT, 2, index);
            bench.put(PAGE, 4, (GPA >> 12) + 16 * index);
        }
        assert_eq!(bench.device.running(), [0; 0]);
        bench.device.read();
        bench
    }
}

#[test]
fn a_transitional_function_is_a_legacy_one_besides() {
    let mut bench = Bench::of(true);
    assert_eq!([0, 8, 0x2c].map(|at| bench.config(at, 4)), [0x1000_1af4, 0x0280_0000, 0x0001_1af4]);
    assert_eq!((bench.config(BAR_0, 4), bench.function.bar_bytes(0)), (1, 32));
    bench.drive(VERSION_1 | RING_RESET);
    assert_eq!(bench.device.running(), [0, 1]);
    let mut bench = Bench::new();
    assert_eq!((bench.get(DEVICE_FEATURES, 4), bench.try_put(STATUS, 1, 1).unwrap_err().name()), (0, "register"));
}

#[test]
fn a_driver_brings_it_up() {
    let mut bench = Bench::legacy();
    assert_eq!((bench.get(DEVICE_FEATURES, 4), bench.get(DRIVER_FEATURES, 4)), (MRG_RXBUF, MRG_RXBUF));
    assert_eq!((bench.get(SIZE, 2), bench.get(PAGE, 4), bench.get(STATUS, 1)), (1024, (GPA >> 12) + 16, 3));
    bench.put(STATUS, 1, 7);
    let start = |index| Deed::Start { index, enabled: true, base: 0 };
    assert_eq!(bench.device.read(), [Deed::Status(7), start(0), start(1)]);
    // 1024 descriptors of 16 bytes, an available ring, and the used ring on the next page.
    let areas: Vec<_> = bench.function.rings().map(|(_, size, _, areas)| (size, areas)).collect();
    assert_eq!(areas[1], (1024, [0x1_0000, 0x1_4000, 0x1_5000].map(|offset| GPA + offset)));
    bench.put(BELL, 2, 1);
    assert_eq!(rung(bench.device.queues[1].as_ref().unwrap().kick().eventfd().unwrap()), 1);
    // Written again, it is refused; with 0, it goes, and can be given another place.
    assert_eq!(bench.try_put(PAGE, 4, 1).unwrap_err().name(), "value");
    bench.put(PAGE, 4, 0);
    assert_eq!((bench.device.running(), bench.get(PAGE, 4)), (vec![0], 0));
    bench.put(PAGE, 4, (GPA >> 12) + 32);
    assert_eq!(bench.device.running(), [0, 1]);
    bench.put(STATUS, 1, 0);
    assert_eq!((bench.device.running().len(), bench.get(PAGE, 4), bench.get(DRIVER_FEATURES, 4)), (0, 0, 0));
    bench.drive(VERSION_1);
    assert_eq!(bench.status(), 0xf, "the next driver is another");
}

#[test]
fn what_is_not_offered_is_not_accepted() {
    let mut bench = Bench::of(true);
    bench.device.read();
    bench.put(DRIVER_FEATURES, 4, u32::MAX.into());
    assert_eq!(bench.device.read(), [Deed::Features(MRG_RXBUF)]);
    // An address that was written before is still the driver's, byte by byte.
    bench.put(20, 1, 2);
    bench.put(24, 2, 0x7788);
    assert_eq!(bench.device.read(), [Deed::Address([2, 0, 0, 0, 0, 9]), Deed::Address([2, 0, 0, 0, 0x88, 0x77])]);
    assert_eq!(bench.try_put(20, 1, 3).unwrap_err().name(), "value");
    for (register, len_bytes) in [(25, 2), (26, 2), (31, 1), (0, 4), (12, 2), (19, 1), (4, 2), (8, 8), (18, 2)] {
        assert_eq!(bench.try_put(register, len_bytes, 2).unwrap_err().name(), "register", "{register}");
    }
    bench.put(SELECT, 2, 9);
    assert_eq!((bench.get(SIZE, 2), bench.get(PAGE, 4)), (0, 0), "there is none");
    for page in [0, 1] {
        assert_eq!(bench.try_put(PAGE, 4, page).unwrap_err().name(), "value");
    }
}

#[test]
fn a_queue_may_be_used_before_the_driver_is_ready() {
    let mut bench = Bench::legacy();
    assert_eq!(bench.try_put(BELL, 2, 2).unwrap_err().name(), "value");
    bench.put(BELL, 2, 0);
    assert_eq!(bench.device.running(), [0, 1]);
    // Features that come still later hold from then on.
    bench.device.read();
    bench.put(DRIVER_FEATURES, 4, 0);
    assert_eq!(bench.device.read()[..3], [Deed::Stop(0), Deed::Stop(1), Deed::Features(0)]);
    assert_eq!(bench.device.running(), [0, 1]);
    bench.put(STATUS, 1, 0x87);
    assert_eq!(bench.device.running(), [0; 0], "given up");
}

#[test]
fn a_driver_uses_one_interface_until_it_resets_the_device() {
    let mut bench = Bench::legacy();
    assert_eq!([bench.refused(DRIVER_FEATURE, 4, 1), bench.refused(DEVICE_STATUS, 1, 0xb)], ["value"; 2]);
    assert_eq!(bench.refused(QUEUE_ENABLE, 2, 1), "value");
    bench.put(STATUS, 1, 0xf);
    assert_eq!(bench.status(), 7, "there is no FEATURES_OK");
    let mut bench = Bench::of(true);
    bench.drive(VERSION_1);
    for (register, len_bytes) in [(DRIVER_FEATURES, 4), (PAGE, 4), (STATUS, 1)] {
        assert_eq!(bench.try_put(register, len_bytes, 7).unwrap_err().name(), "value");
    }
    assert_eq!(bench.get(STATUS, 1), 0xf);
    bench.put(STATUS, 1, 0);
    assert_eq!((bench.status(), bench.device.running().len()), (0, 0));
}

#[test]
fn vectors_are_there_with_msix() {
    let mut bench = Bench::legacy();
    let (pin, queue, config) = (bench.connect(None), bench.connect(Some(1)), bench.connect(Some(2)));
    bench.put(STATUS, 1, 7);
    bench.device.queues[0].as_mut().unwrap().call().notify();
    assert_eq!((rung(&pin), bench.get(REASONS - 1, 2), bench.get(REASONS, 1)), (1, 0x107, 0));
    assert_eq!(bench.get(20, 4), 2, "the address");
    bench.use_msix();
    assert_eq!((bench.get(20, 4), bench.get(24, 4)), (u32::MAX.into(), 2), "the address is behind them");
    for (register, vector) in [(20, 2), (22, 1), (22, 6), (22, 1)] {
        bench.put(register, 2, vector);
    }
    assert_eq!((bench.get(20, 2), bench.get(22, 2)), (2, 1));
    bench.device.queues[1].as_mut().unwrap().call().notify();
    bench.function.config_changed();
    assert_eq!((rung(&queue), rung(&config)), (1, 1));
}
