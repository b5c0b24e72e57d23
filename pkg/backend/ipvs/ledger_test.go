package ipvs

import "testing"

func TestLeftover(t *testing.T) {
	dir := t.TempDir()
	if Leftover(dir) {
		t.Error("of an empty directory")
	}
	if err := (ledger{}).write(dir); err != nil {
		t.Fatal(err)
	}
	if !Leftover(dir) {
		t.Error("not seen")
	}
	if err := removeLedger(dir); err != nil || Leftover(dir) {
		t.Errorf("after its removal (%v)", err)
	}
}
