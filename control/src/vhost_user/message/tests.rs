//! Numbers and layouts here are typed in from the specification, not taken from the code they test.

use proptest::prelude::*;

use super::*;

#[test]
fn requests_have_the_specifications_numbers() {
    let spec = [
        (FrontendRequest::GET_FEATURES, 1),
        (FrontendRequest::SET_MEM_TABLE, 5),
        (FrontendRequest::GET_VRING_BASE, 11),
        (FrontendRequest::SET_VRING_ERR, 14),
        (FrontendRequest::GET_PROTOCOL_FEATURES, 15),
        (FrontendRequest::SET_VRING_ENABLE, 18),
        (FrontendRequest::NET_SET_MTU, 20),
        (FrontendRequest::SET_BACKEND_REQ_FD, 21),
        (FrontendRequest::GET_CONFIG, 24),
        (FrontendRequest::GET_INFLIGHT_FD, 31),
        (FrontendRequest::RESET_DEVICE, 34),
        (FrontendRequest::GET_MAX_MEM_SLOTS, 36),
        (FrontendRequest::GET_STATUS, 40),
        (FrontendRequest::CHECK_DEVICE_STATE, 43),
    ];
    for (request, number) in spec {
        assert_eq!(request.number(), number, "{request}");
    }
    for (requests, count) in [(FrontendRequest::ALL.len(), 45), (BackendRequest::ALL.len(), 10)] {
        assert_eq!(requests, count, "numbers run without a gap");
    }
    for request in FrontendRequest::ALL {
        assert_eq!(FrontendRequest::from_number(request.number()), Some(*request));
    }
    for number in [0, 46, 1000, u32::MAX] {
        assert_eq!(FrontendRequest::from_number(number), None);
        assert_eq!(BackendRequest::from_number(number), None);
    }
}

#[test]
fn protocol_features_have_the_specifications_bits() {
    assert_eq!(ProtocolFeature::ALL.len(), 24);
    let qemu_with_dpdk = ProtocolFeatures(0x10cbf);
    assert_eq!(
        qemu_with_dpdk.to_string(),
        "MQ LOG_SHMFD RARP REPLY_ACK NET_MTU BACKEND_REQ CRYPTO_SESSION BACKEND_SEND_FD \
         HOST_NOTIFIER STATUS"
    );
    assert_eq!(ProtocolFeatures(1 << 40 | 1).to_string(), "MQ 0x10000000000");
    assert!(!qemu_with_dpdk.has(ProtocolFeature::CONFIG));
}

/// For every request of both directions: its name, what its body and its descriptors may be.
fn all_shapes() -> impl Iterator<Item = (&'static str, Shape, RangeInclusive<usize>)> {
    let frontend = FrontendRequest::ALL.iter().map(|r| (r.name(), r.shape(), r.descriptors()));
    let backend = BackendRequest::ALL.iter().map(|r| (r.name(), r.shape(), r.descriptors()));
    frontend.chain(backend)
}

#[test]
fn every_request_is_refused_when_short_or_long() {
    for (request, shape, descriptors) in all_shapes() {
        let check = |len| check_shape(request, shape, len, descriptors.clone(), *descriptors.end());
        let (min, max) = (*shape.len_bytes().start(), *shape.len_bytes().end());
        assert_eq!(check(min), Ok(()), "{request}");
        assert_eq!(check(max), Ok(()), "{request}");
        for wrong in min.checked_sub(1).into_iter().chain([max + 1]) {
            let size = ProtocolError::Size { request, found: wrong, min, max };
            assert_eq!(check(wrong), Err(size));
        }
    }
}

#[test]
fn every_request_is_refused_with_too_few_or_too_many_descriptors() {
    for (request, shape, descriptors) in all_shapes() {
        let (min, max) = (*descriptors.start(), *descriptors.end());
        let check = |count| check_shape(request, shape, *shape.len_bytes().end(), min..=max, count);
        assert_eq!(check(min), Ok(()), "{request}");
        assert_eq!(check(max), Ok(()), "{request}");
        for wrong in min.checked_sub(1).into_iter().chain([max + 1, 100]) {
            let error = ProtocolError::Descriptors { request, found: wrong, min, max };
            assert_eq!(check(wrong), Err(error));
        }
    }
}

#[test]
fn no_message_is_longer_than_the_connection_holds() {
    for (request, shape, descriptors) in all_shapes() {
        assert!(*shape.len_bytes().end() <= BODY_BYTES_MAX, "{request}");
        assert!(*descriptors.end() <= DESCRIPTORS_MAX, "{request}");
    }
}

#[test]
fn what_is_no_header_ends_the_session() {
    let good = Header::request(1, 0, true);
    assert_eq!(good.flags, 0x9);
    assert_eq!(Header::reply(1, 8).flags, 0x5);
    assert_eq!(good.check_framing(), Ok(()));
    for version in [0, 2, 3] {
        let error = Header { flags: 0xff00 | version, ..good }.check_framing().unwrap_err();
        assert_eq!(error, ProtocolError::Version { request: 1, found: version });
        assert!(error.ends_the_session());
    }
    let error = Header { size_bytes: 4097, ..good }.check_framing().unwrap_err();
    assert_eq!(error, ProtocolError::TooLong { request: 1, found: 4097 });
    assert!(error.ends_the_session());
    assert_eq!(Header { size_bytes: 4096, ..good }.check_framing(), Ok(()));
}

#[test]
fn a_request_marked_as_reply_is_refused() {
    for flags in [0x5, 0x11, 0x8000_0001] {
        let header = Header { request: 2, flags, size_bytes: 0 };
        let error = header.check_request_flags().unwrap_err();
        assert_eq!(error, ProtocolError::Flags { request: 2, found: flags });
        assert!(!error.ends_the_session());
    }
}

#[cfg(target_endian = "little")]
#[test]
fn bodies_lie_as_the_specification_draws_them() {
    let addr = VringAddr { index: 1, flags: 2, descriptor: 3, used: 4, available: 5, log: 6 }.to_bytes();
    let words: Vec<u32> = addr.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect();
    assert_eq!(words, [1, 2, 3, 0, 4, 0, 5, 0, 6, 0], "used comes before available");

    let region = MemoryRegion { guest_addr: 1, size_bytes: 2, user_addr: 3, mmap_offset: 4 };
    let quads = |bytes: &[u8]| -> Vec<u64> {
        bytes.chunks(8).map(|quad| u64::from_le_bytes(quad.try_into().unwrap())).collect()
    };
    assert_eq!(quads(&region.to_single_bytes()), [0, 1, 2, 3, 4]);
    let table = MemoryTable { regions: vec![region; 2] };
    assert_eq!(quads(&table.to_bytes()), [2, 1, 2, 3, 4, 1, 2, 3, 4]);

    let config = Config { offset: 6, flags: 1, bytes: vec![7, 8] };
    assert_eq!(config.to_bytes(), [6, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 7, 8]);

    let inflight = Inflight { mmap_size: 1, mmap_offset: 2, num_queues: 3, queue_size: 4 };
    assert_eq!(quads(&inflight.to_bytes()), [1, 2, 0x0004_0003]);

    assert_eq!(VringFd { index: 7, no_fd: true }.to_bytes(), [7, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(Header::request(24, 14, false).to_bytes(), [24, 0, 0, 0, 1, 0, 0, 0, 14, 0, 0, 0]);
}

#[test]
fn a_table_may_be_longer_than_its_regions_but_not_shorter() {
    let region = MemoryRegion { guest_addr: 1, size_bytes: 2, user_addr: 3, mmap_offset: 4 };
    let one = MemoryTable { regions: vec![region] };
    let mut bytes = one.to_bytes();
    bytes.resize(8 + 2 * 32, 0xaa); // as user-mode Linux sends it
    assert_eq!(MemoryTable::from_bytes("t", &bytes), Ok(one));
    bytes.truncate(8 + 31);
    let size = ProtocolError::Size { request: "t", found: 39, min: 40, max: 264 };
    assert_eq!(MemoryTable::from_bytes("t", &bytes), Err(size));
    bytes[0] = 9;
    let error = MemoryTable::from_bytes("t", &bytes).unwrap_err();
    assert_eq!(error.to_string(), "t: num regions is 0x9, allowed is 0x0 to 0x8");
}

#[test]
fn a_vring_fd_knows_nine_bits() {
    let from = |value: u64| VringFd::from_bytes("v", &value.to_ne_bytes());
    assert_eq!(from(0x1ff), Ok(VringFd { index: 255, no_fd: true }));
    assert!(matches!(from(0x200), Err(ProtocolError::Field { found: 0x200, .. })));
}

#[test]
fn a_config_that_lies_about_its_size_is_refused() {
    let mut bytes = Config { offset: 0, flags: 0, bytes: vec![0; 4] }.to_bytes();
    bytes[4..8].copy_from_slice(&5u32.to_ne_bytes());
    let error = Config::from_bytes("c", &bytes).unwrap_err();
    assert_eq!(error.to_string(), "c: size is 0x5, allowed is 0x4");
}

#[test]
fn a_packed_base_of_sixteen_bits_means_nothing_in_flight() {
    let base = VringBase::from_num("b", 0x8003, true).unwrap();
    let expected = VringBase::Packed { avail: 3, avail_wrap: true, used: 3, used_wrap: true };
    assert_eq!(base, expected);
    assert_eq!(VringBase::start(true).to_num(), 0x8000_8000);
    assert_eq!(VringBase::from_num("b", 0x8000_8000, true), Ok(VringBase::start(true)));
    assert!(VringBase::from_num("b", 0x1_0000, false).is_err());
}

#[test]
fn every_error_says_what_was_found() {
    let error = ProtocolError::Size { request: "SET_VRING_NUM", found: 7, min: 8, max: 8 };
    assert_eq!(error.to_string(), "SET_VRING_NUM: a body of 7 bytes, allowed are 8 to 8");
    assert_eq!(error.outcome().name(), "size");
    let names: std::collections::BTreeSet<_> = Outcome::ALL.iter().map(|o| o.name()).collect();
    assert_eq!(names.len(), Outcome::ALL.len());
}

proptest! {
    #[test]
    fn headers_go_there_and_back(request: u32, flags: u32, size_bytes: u32) {
        let header = Header { request, flags, size_bytes };
        prop_assert_eq!(Header::from_bytes(&header.to_bytes()), header);
    }

    #[test]
    fn bodies_go_there_and_back(a: u64, b: u64, c: u64, d: u64, e: u32, f: u32, g: u16, h: u16, i: u8, j: u8) {
        macro_rules! round {
            ($name:ident $fields:tt) => {{
                let body = $name $fields;
                let bytes = body.to_bytes();
                prop_assert_eq!(bytes.len(), $name::LEN_BYTES);
                prop_assert_eq!($name::from_bytes("t", &bytes), Ok(body));
            }};
        }
        round!(VringState { index: e, num: f });
        round!(VringAddr { index: e, flags: f, descriptor: a, used: b, available: c, log: d });
        round!(MemoryRegion { guest_addr: a, size_bytes: b, user_addr: c, mmap_offset: d });
        round!(LogBase { size_bytes: a, mmap_offset: b });
        round!(Iotlb { iova: a, size_bytes: b, user_addr: c, permissions: i, kind: j });
        round!(VringArea { index: a, size_bytes: b, offset: c });
        round!(Inflight { mmap_size: a, mmap_offset: b, num_queues: g, queue_size: h });
        round!(DeviceState { direction: e, phase: f });
        round!(Mmap { shmid: a, fd_offset: b, shm_offset: c, len_bytes: d, flags: a });
    }

    #[test]
    fn tables_and_configs_go_there_and_back(
        regions in prop::collection::vec(any::<[u64; 4]>(), 0..=8),
        offset: u32, flags: u32, bytes in prop::collection::vec(any::<u8>(), 0..=256),
    ) {
        let regions = regions.into_iter().map(|[guest_addr, size_bytes, user_addr, mmap_offset]| {
            MemoryRegion { guest_addr, size_bytes, user_addr, mmap_offset }
        });
        let table = MemoryTable { regions: regions.collect() };
        prop_assert_eq!(MemoryTable::from_bytes("t", &table.to_bytes()), Ok(table));
        let config = Config { offset, flags, bytes };
        prop_assert_eq!(Config::from_bytes("t", &config.to_bytes()), Ok(config));
    }

    #[test]
    fn bases_go_there_and_back(num: u32, low: u16) {
        let split = VringBase::from_num("b", low.into(), false).unwrap();
        prop_assert_eq!(split.to_num(), u32::from(low));
        prop_assume!(num >> 16 != 0);
        prop_assert_eq!(VringBase::from_num("b", num, true).unwrap().to_num(), num);
    }

    #[test]
    fn any_bytes_are_a_body_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        macro_rules! decode { ($($name:ident)*) => { $(
            if let Ok(body) = $name::from_bytes("t", &bytes) {
                prop_assert_eq!($name::from_bytes("t", &body.to_bytes()), Ok(body));
            }
        )* }; }
        decode!(VringState VringAddr MemoryRegion MemoryTable LogBase Iotlb VringArea Inflight);
        decode!(DeviceState Mmap VringFd Config);
    }
}
