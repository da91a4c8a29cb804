use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use virtnet_control::reply::{Moved, Rates, Way};

use super::load::{Flow, Lcore, Lcores, Load};
use super::view::{Next, View};

fn moved(pf: u16, vf: Option<u16>, [rx, tx]: [u64; 2]) -> Moved {
    let way = |packets| Way { packets, bytes: packets * 1000, drops: packets / 10 };
    let vuid = format!("{pf} {vf:?}");
    Moved { pf, vf, class: String::new(), vuid, name: format!("vm{pf}"), rx: way(rx), tx: way(tx) }
}

fn flow(pf: u16, vf: Option<u16>, figures: [f64; 5]) -> Flow {
    Flow { pf, vf, name: format!("vm{pf}"), figures }
}

fn lcores(count: u64) -> Vec<Lcore> {
    let lcore = |worker| Lcore {
        worker,
        lcore: Some(worker + 4),
        busy_percent: 25.04,
        ns_per_frame: Some(81.25),
        ..Lcore::default()
    };
    (0..count).map(lcore).collect()
}

#[test]
fn rates_are_what_was_moved_over_the_services_time() {
    let before = Rates { seconds: 10.0, functions: vec![moved(0, None, [1_000_000, 0]), moved(0, Some(1), [7, 7])] };
    let now = Rates {
        seconds: 12.0,
        functions: vec![
            moved(0, None, [5_000_000, 1_000_000]),
            moved(0, Some(1), [7, 7]),
            moved(1, None, [0, 2_000_000]),
        ],
    };
    let load = Load::between(&before, &now, Lcores { lcores: lcores(1) });
    assert_eq!(load.seconds, 2.0);
    assert_eq!(load.functions[0], flow(0, None, [2.0, 16.0, 0.5, 4.0, 250_000.0]));
    assert_eq!(load.functions[1], flow(0, Some(1), [0.0; 5]));
    assert_eq!(load.functions[2], flow(1, None, [0.0, 0.0, 1.0, 8.0, 100_000.0]));
    assert_eq!(load.total(), [2.0, 16.0, 1.5, 12.0, 350_000.0]);
}

#[test]
fn what_counts_anew_or_in_no_time_is_no_riddle() {
    let (before, now) = (moved(0, None, [9_000_000, 0]), moved(0, None, [1_000_000, 0]));
    let of = |seconds| {
        let before = Rates { seconds: 10.0, functions: vec![before.clone()] };
        Load::between(&before, &Rates { seconds, functions: vec![now.clone()] }, Lcores::default())
    };
    assert_eq!(of(11.0).functions[0].figures[0], 1.0);
    assert_eq!(of(10.0).functions[0].figures, [0.0; 5]);
    assert_eq!(of(9.0).functions[0].figures, [0.0; 5]);
    let most = |way| Moved { rx: Way { packets: way, bytes: way, drops: way }, ..Moved::default() };
    let rates = |moved, seconds| Rates { seconds, functions: vec![moved] };
    let load = Load::between(&rates(most(0), 0.0), &rates(most(u64::MAX), 1e-300), Lcores::default());
    assert!(load.text().contains("inf"));
}

#[test]
fn a_picture_as_text_has_a_row_for_each_function_and_lcore() {
    let functions = vec![flow(0, None, [1.0, 2.0, 3.0, 4.0, 5.4]), flow(0, Some(3), [0.5; 5])];
    let text = Load { seconds: 1.0, functions, lcores: lcores(2) }.text();
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[1], ["worker", "lcore", "node", "busy", "%", "ns/frame"]);
    assert_eq!(rows[3..5], [["0", "4", "25.0", "81.2"], ["1", "5", "25.0", "81.2"]]);
    assert_eq!(rows[9], ["pf0", "vm0", "1.000", "2.000", "3.000", "4.000", "5"]);
    assert_eq!(rows[10], ["pf0vf3", "vm0", "0.500", "0.500", "0.500", "0.500", "0"]);
    assert_eq!(rows[11], ["total", "1.500", "2.500", "3.500", "4.500", "6"]);
}

/// A view on a terminal of its own.
struct Eyes {
    view: View,
    terminal: Terminal<TestBackend>,
}

impl Eyes {
    fn new(width: u16, height: u16) -> Self {
        let terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        Self { view: View::new(Duration::from_secs(1)), terminal }
    }

    /// The screen, a string a row.
    fn screen(&mut self) -> Vec<String> {
        self.terminal.draw(|frame| self.view.draw(frame)).unwrap();
        let buffer = self.terminal.backend().buffer();
        let width = usize::from(buffer.area.width).max(1);
        buffer.content.chunks(width).map(|row| row.iter().map(|cell| cell.symbol()).collect()).collect()
    }

    /// The ids of functions on the screen.
    fn ids(&mut self) -> Vec<String> {
        let screen = self.screen();
        let rows = screen.iter().skip_while(|row| !row.starts_with("function")).skip(1);
        rows.take_while(|row| row.starts_with("pf")).map(|row| row.split(' ').next().unwrap().to_owned()).collect()
    }

    fn press(&mut self, code: KeyCode) -> Next {
        self.view.press(KeyEvent::new(code, KeyModifiers::NONE))
    }
}

fn three() -> Load {
    let functions = vec![
        flow(0, None, [1.0, 1.0, 0.0, 0.0, 7.0]),
        flow(1, None, [3.0, 3.0, 0.0, 0.0, 0.0]),
        flow(0, Some(2), [2.0, 2.0, 0.0, 0.0, 0.0]),
    ];
    Load { seconds: 1.0, functions, lcores: lcores(2) }
}

#[test]
fn a_screen_has_totals_lcores_functions_and_keys() {
    let mut eyes = Eyes::new(90, 14);
    assert!(eyes.screen()[0].starts_with("measuring for 1 s"));
    eyes.view.hear(Ok(three()));
    let screen: Vec<String> = eyes.screen().iter().map(|row| row.trim_end().to_owned()).collect();
    assert_eq!(
        screen,
        [
            "3 functions over 1.0 s: rx 6.000 Mpps 6.000 Gbit/s, tx 0.000 Mpps 0.000 Gbit/s, 7 drops/s",
            "",
            "worker       lcore   node   busy %   ns/frame",
            "0                4            25.0       81.2",
            "1                5            25.0       81.2",
            "",
            "function   name                   rx Mpps↓  rx Gbit/s    tx Mpps  tx Gbit/s      drops/s",
            "pf1        vm1                       3.000      3.000      0.000      0.000            0",
            "pf0vf2     vm0                       2.000      2.000      0.000      0.000            0",
            "pf0        vm0                       1.000      1.000      0.000      0.000            7",
            "",
            "",
            "",
            "q end   ← → column   ↑ ↓ order   PgUp PgDn Home End rows",
        ]
    );
}

#[test]
fn arrows_sort() {
    let mut eyes = Eyes::new(100, 20);
    eyes.view.hear(Ok(three()));
    let ids = |eyes: &mut Eyes, codes: &[KeyCode]| {
        codes.iter().for_each(|code| assert_eq!(eyes.press(*code), Next::Go));
        eyes.ids()
    };
    assert_eq!(ids(&mut eyes, &[]), ["pf1", "pf0vf2", "pf0"]);
    assert_eq!(ids(&mut eyes, &[KeyCode::Up]), ["pf0", "pf0vf2", "pf1"]);
    assert_eq!(ids(&mut eyes, &[KeyCode::Right; 9]), ["pf0vf2", "pf1", "pf0"], "by drops; equal ones by id");
    assert_eq!(ids(&mut eyes, &[KeyCode::Down]), ["pf0", "pf0vf2", "pf1"]);
    assert_eq!(ids(&mut eyes, &[KeyCode::Left; 9]), ["pf1", "pf0vf2", "pf0"]);
    assert_eq!(ids(&mut eyes, &[KeyCode::Up, KeyCode::Right]), ["pf0", "pf0vf2", "pf1"], "by name");
}

#[test]
fn rows_beyond_the_screen_are_a_page_away() {
    let mut eyes = Eyes::new(100, 14);
    let functions = (0..1000).map(|pf| flow(pf, None, [0.0; 5])).collect();
    eyes.view.hear(Ok(Load { seconds: 1.0, functions, lcores: lcores(1) }));
    let first = |eyes: &mut Eyes| eyes.ids()[0].clone();
    let page = eyes.ids().len();
    assert!(page > 3, "{page}");
    for (code, id) in [
        (KeyCode::PageUp, "pf0".into()),
        (KeyCode::PageDown, format!("pf{page}")),
        (KeyCode::End, format!("pf{}", 1000 - page)),
        (KeyCode::PageDown, format!("pf{}", 1000 - page)),
        (KeyCode::PageUp, format!("pf{}", 1000 - 2 * page)),
        (KeyCode::Home, "pf0".into()),
    ] {
        eyes.press(code);
        assert_eq!(first(&mut eyes), id, "{code:?}");
    }
}

#[test]
fn it_ends_when_it_is_told_to() {
    let mut eyes = Eyes::new(10, 10);
    for code in [KeyCode::Char('q'), KeyCode::Esc] {
        assert_eq!(eyes.press(code), Next::End);
    }
    assert_eq!(eyes.view.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Next::End);
    assert_eq!(eyes.press(KeyCode::Char('c')), Next::Go);
}

#[test]
fn a_service_that_is_lost_is_told_of_until_it_is_back() {
    let mut eyes = Eyes::new(100, 20);
    eyes.view.hear(Err("nobody\u{1b}[2J is there".into()));
    assert!(eyes.screen()[0].starts_with("nobody\u{fffd}[2J is there"));
    eyes.view.hear(Ok(three()));
    eyes.view.hear(Err("nobody is there".into()));
    assert!(eyes.screen()[0].starts_with("nobody is there"));
    assert_eq!(eyes.ids().len(), 3, "what was last seen stays");
    eyes.view.hear(Ok(three()));
    assert!(eyes.screen()[0].starts_with("3 functions"));
}

#[test]
fn no_screen_is_too_small_and_no_name_too_long() {
    let mut load = three();
    load.functions[0].name = "é\u{200d}漢".repeat(500);
    load.lcores = lcores(70_000);
    for width in [0, 1, 2, 7, 40, 300] {
        for height in [0, 1, 2, 3, 5, 8, 60] {
            let mut eyes = Eyes::new(width, height);
            eyes.screen();
            eyes.view.hear(Ok(load.clone()));
            assert_eq!(eyes.screen().len(), if width == 0 { 0 } else { usize::from(height) });
        }
    }
}

#[test]
fn names_have_nothing_that_a_terminal_would_obey() {
    let mut named = moved(0, None, [0, 0]);
    named.name = "a\u{1b}[2Jb\u{9b}c\r\n".into();
    let load = Load::between(&Rates::default(), &Rates { seconds: 1.0, functions: vec![named] }, Lcores::default());
    assert!(!load.text().chars().any(|character| character.is_control() && character != '\n'));
}
