package ipvs

import "testing"

func TestLeftover(t *testing.T) {
	dir := t.TempDir()
	if Leftover(dir) {
		t.Error("of an empty directory")
	}
	k := newBookkeeper(dir, func(err error) { t.Error(err) })
	if err := k.put(ledger{}); err != nil {
		t.Fatal(err)
	}
	k.close()
	if !Leftover(dir) {
		t.Error("not seen")
	}
	k = newBookkeeper(dir, func(err error) { t.Error(err) })
	k.keeper.Clear()
	k.close()
	if Leftover(dir) {
		t.Error("left after its removal")
	}
}
