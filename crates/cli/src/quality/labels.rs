//! Where names stand beside points, so that no name covers another one or a point.

/// Of a letter, at the size that names are drawn in: no font is at hand to ask.
const LETTER: f64 = 5.9;
/// Above the line that letters stand on, and below it.
const ASCENT: f64 = 9.0;
const DESCENT: f64 = 3.0;
/// Half a point's box.
const POINT: f64 = 7.0;
/// From a point's centre to a name on its right.
const BESIDE: f64 = 9.0;
/// From a point's centre down to the line of a name beside it: somewhat below, level, somewhat above.
const LINES: [f64; 3] = [13.0, 4.0, -6.0];
/// The same of a name in the middle below it or above it.
const MIDDLE_LINES: [f64; 2] = [20.0, -11.0];
/// Between the ends of two names.
const SPACE: f64 = 4.0;

/// From one corner to the opposite one.
#[derive(Debug, Clone, Copy)]
pub struct Area {
    pub left: f64,
    pub top: f64,
    pub right: f64,
    pub bottom: f64,
}

impl Area {
    fn around([x, y]: [f64; 2]) -> Self {
        Self { left: x - POINT, top: y - POINT, right: x + POINT, bottom: y + POINT }
    }

    fn of_name(x: f64, line: f64, width: f64) -> Self {
        Self { left: x, top: line - ASCENT, right: x + width + SPACE, bottom: line + DESCENT }
    }

    fn meets(&self, other: &Self) -> bool {
        self.left < other.right
            && other.left < self.right
            && self.top < other.bottom
            && other.top < self.bottom
    }

    fn holds(&self, other: &Self) -> bool {
        self.left <= other.left
            && other.right <= self.right
            && self.top <= other.top
            && other.bottom <= self.bottom
    }
}

/// Where each point's name begins and its line, the first names first; `None` where there is no room for it.
pub fn place(area: &Area, points: &[([f64; 2], String)]) -> Vec<Option<[f64; 2]>> {
    let marks: Vec<Area> = points.iter().map(|(at, _)| Area::around(*at)).collect();
    let mut names: Vec<Area> = Vec::new();
    let mut places = Vec::new();
    for ([x, y], name) in points {
        let width = LETTER * name.chars().count() as f64;
        let [right, left, middle] = [x + BESIDE, x - POINT - SPACE - width, x - width / 2.0];
        let beside = [right, left].into_iter().flat_map(|x| LINES.map(|line| [x, y + line]));
        let mut all = beside.chain(MIDDLE_LINES.map(|line| [middle, y + line]));
        let is_free = |[x, line]: &[f64; 2]| {
            let name = Area::of_name(*x, *line, width);
            area.holds(&name) && !marks.iter().chain(&names).any(|other| other.meets(&name))
        };
        let place = all.find(is_free);
        names.extend(place.map(|[x, line]| Area::of_name(x, line, width)));
        places.push(place);
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    const AREA: Area = Area { left: 0.0, top: 0.0, right: 200.0, bottom: 100.0 };

    fn point(x: f64, y: f64) -> ([f64; 2], String) {
        ([x, y], "ten letters"[..10].into())
    }

    #[test]
    fn names_do_not_meet() {
        let points = [point(80.0, 50.0), point(90.0, 50.0), point(190.0, 98.0), point(120.0, 20.0)];
        let places = place(&AREA, &points);
        let names: Vec<Area> = places.iter().flatten().map(|[x, y]| Area::of_name(*x, *y, 59.0)).collect();
        assert_eq!(names.len(), 4, "{places:?}");
        for (i, name) in names.iter().enumerate() {
            assert!(AREA.holds(name), "{name:?}");
            assert!(names[..i].iter().all(|other| !other.meets(name)), "{places:?}");
            assert!(points.iter().all(|(at, _)| !Area::around(*at).meets(name)), "{places:?}");
        }
    }

    #[test]
    fn a_name_without_room_is_left_out() {
        let crowd: Vec<_> = (0..40).map(|_| point(100.0, 50.0)).collect();
        let placed = place(&AREA, &crowd).iter().flatten().count();
        assert!((3..40).contains(&placed), "{placed}");
    }
}
