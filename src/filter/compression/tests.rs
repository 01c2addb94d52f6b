use std::sync::Arc;

use bytes::Bytes;
use http_body::Frame;

use super::{Coding, Compress, Decoding, Decompress, Encoding};
use crate::filter::body::{Frames, Transform};

fn data(frames: Frames) -> Vec<u8> {
    let pieces = frames
        .into_iter()
        .filter_map(|frame| frame.into_data().ok());
    pieces.flat_map(|piece| piece.to_vec()).collect()
}

fn compress(coding: Coding) -> Compress {
    let encoding = Encoding {
        coding,
        level: 3,
        window: 18,
    };
    Compress::new(&encoding, Arc::default(), Arc::default()).unwrap()
}

fn decompress(coding: Coding, max_ratio: u64) -> Decompress {
    Decompress::new(&Decoding { coding, max_ratio }).unwrap()
}

const ALL: [Coding; 3] = [Coding::Gzip, Coding::Brotli, Coding::Zstd];

#[test]
fn each_piece_can_be_read_as_soon_as_it_has_passed() {
    for coding in ALL {
        let (mut there, mut back) = (compress(coding), decompress(coding, 100));
        for piece in ["first ", "second ", "third"] {
            let mut coded = Frames::new();
            there.data(Bytes::from(piece), &mut coded).unwrap();
            let mut plain = Frames::new();
            back.data(data(coded).into(), &mut plain).unwrap();
            assert_eq!(data(plain), piece.as_bytes(), "{coding:?}");
        }
        let (mut coded, mut plain) = (Frames::new(), Frames::new());
        there.end(None, &mut coded).unwrap();
        back.data(data(coded).into(), &mut plain).unwrap();
        back.end(Some(http::HeaderMap::new()), &mut plain).unwrap();
        assert!(plain.iter().any(Frame::is_trailers), "{coding:?}");
        assert!(data(plain).is_empty(), "{coding:?}");
    }
}

#[test]
fn a_little_does_not_become_too_much() {
    for coding in ALL {
        let mut there = compress(coding);
        let mut coded = Frames::new();
        there.data(vec![b'x'; 8 << 20].into(), &mut coded).unwrap();
        there.end(None, &mut coded).unwrap();
        let mut back = decompress(coding, 10);
        let mut plain = Frames::new();
        let done = back.data(data(coded).into(), &mut plain);
        assert!(done.is_err(), "{coding:?}");
    }
}

#[test]
fn what_is_not_in_the_coding_breaks_off() {
    for coding in ALL {
        let mut back = decompress(coding, 100);
        let mut plain = Frames::new();
        let written = back.data(Bytes::from(vec![0xaa; 64]), &mut plain);
        let done = written.and_then(|()| back.end(None, &mut plain));
        assert!(done.is_err(), "{coding:?}");
    }
}
