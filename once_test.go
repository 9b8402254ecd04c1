package freezeframe

import "testing"

func TestOnce(t *testing.T) {
	type key int
	type other int
	made := 0
	build := func() int { made++; return made }
	w := Remembering(nil)
	if a, b := Once(w, key(1), build), Once(w, key(1), build); a != 1 || b != 1 {
		t.Errorf("built anew for the same key: %d, %d", a, b)
	}
	if a := Once(w, key(2), build); a != 2 {
		t.Errorf("another key gives %d", a)
	}
	if a := Once(w, other(1), build); a != 3 {
		t.Errorf("the same number of another type gives %d", a)
	}
	if a := Once(Remembering(nil), key(1), build); a != 4 {
		t.Errorf("another window's memory gives %d", a)
	}
	if a, b := Once(Window(nil), key(1), build), Once(Window(nil), key(1), build); a != 5 || b != 6 {
		t.Errorf("a window without memory gives %d, %d", a, b)
	}
}
