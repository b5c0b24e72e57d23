package loader

import (
	"os"
	"strings"
	"testing"
)

// Whatever map has lost its pin, the program in force has it: also those that
// packets do not need.
func TestMapsWithoutPinsAreFound(t *testing.T) {
	o := options(t)
	d := open(t, o)
	d.Flows[17], d.Labels[3].Cookie, d.Addresses[5].Word[0], d.Leases[7] = 4711, 4712, 4713, 4714
	seed := d.Settings.Seed
	must(t, d.Close(true))
	pins, err := os.ReadDir(o.PinDir)
	must(t, err)
	for _, pin := range pins {
		if !strings.HasPrefix(pin.Name(), linkPrefix) {
			must(t, os.Remove(pinDir(o.PinDir).file(pin.Name())))
		}
	}
	d = open(t, o)
	defer func() { must(t, d.Close(false)) }()
	if !d.Adopted || d.Settings.Seed != seed {
		t.Error("without pins everything begins anew")
	}
	if d.Flows[17] != 4711 || d.Labels[3].Cookie != 4712 || d.Addresses[5].Word[0] != 4713 || d.Leases[7] != 4714 {
		t.Errorf("flow %d, label %d, address %d, lease %d", d.Flows[17], d.Labels[3].Cookie, d.Addresses[5].Word[0], d.Leases[7])
	}
	again, err := os.ReadDir(o.PinDir)
	must(t, err)
	if len(again) != len(pins) {
		t.Errorf("%d pins, before %d", len(again), len(pins))
	}
}
