package loader

import (
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/lvx-lb/lvx/bpf"
)

// A packet path that grows keeps what its maps hold, and a successor finds the
// larger maps.
func TestGrowKeepsWhatTheMapsHold(t *testing.T) {
	for name, ipv6 := range map[string]bool{"IPv4": false, "both families": true} {
		t.Run(name, func(t *testing.T) {
			o := options(t)
			o.Room, o.IPv6 = RoomFor(0, 0), ipv6
			d := open(t, o)
			lease, last := d.Leases, d.Room()
			d.Reals[7] = bpf.Real{MAC: [6]uint8{2, 0, 0, 0, 0, 7}, Weight: 3}
			d.Rings[last.RingLines-1].Real[5] = 7
			must(t, d.Maps.Counters.Put(uint32(7), slices.Repeat([]bpf.Counter{{Packets: 4}}, ebpf.MustPossibleCPU())))
			d.Flows[5] = 99
			before, err := d.program["lvx0"].Info()
			must(t, err)

			must(t, d.Grow(RoomFor(fewestReals, fewestRingLines)))
			if got := d.Room(); got != (Room{2 * fewestReals, 2 * fewestRingLines}) {
				t.Fatalf("room %+v", got)
			}
			checkGrown(t, d, last)
			d.Leases[1] = 5
			if lease[1] != 5 {
				t.Error("leases are others: whoever renews them does it under no lock")
			}
			after, err := d.program["lvx0"].Info()
			must(t, err)
			was, _ := before.ID()
			if id, _ := after.ID(); id == was {
				t.Error("the program is the same: it knows the old maps")
			}
			if d.Interfaces[0].Mode == 0 || !d.attached(&d.Attachments[0]) {
				t.Error("it is not attached")
			}
			must(t, d.Refresh(t.Context()))
			must(t, d.Close(true))

			next := open(t, o) // asks for less
			if !next.Adopted || next.Room() != (Room{2 * fewestReals, 2 * fewestRingLines}) {
				t.Fatalf("the successor: adopted %v, room %+v", next.Adopted, next.Room())
			}
			checkGrown(t, next, last)
		})
	}
}

func checkGrown(t *testing.T, d *Datapath, last Room) {
	t.Helper()
	var counted []bpf.Counter
	must(t, d.Maps.Counters.Lookup(uint32(7), &counted))
	if d.Reals[7].Weight != 3 || d.Rings[last.RingLines-1].Real[5] != 7 || d.Flows[5] != 99 || counted[0].Packets != 4 {
		t.Errorf("real %+v, ring %v, flow %d, counted %+v", d.Reals[7], d.Rings[last.RingLines-1], d.Flows[5], counted)
	}
}

// One that cannot grow goes on as it was, and can be asked again.
func TestGrowThatFailsChangesNothing(t *testing.T) {
	for _, step := range []string{"copy", "pin", "families", "update"} {
		t.Run(step, func(t *testing.T) {
			o := options(t)
			o.Room, o.IPv6 = RoomFor(0, 0), true
			fails := false
			o.fail = func(s string) error {
				if fails && s == step {
					return errors.New("injected")
				}
				return nil
			}
			d := open(t, o)
			d.Reals[7].Weight = 3
			was, reals := d.Room(), d.Maps.Reals
			fails = true
			if err := d.Grow(RoomFor(fewestReals, 0)); err == nil {
				t.Fatal("no error")
			}
			if d.Room() != was || d.Maps.Reals != reals || d.Reals[7].Weight != 3 || !d.attached(&d.Attachments[0]) {
				t.Errorf("room %+v, before it %+v", d.Room(), was)
			}
			if _, err := os.Stat(d.pins.file(newPrefix + "reals")); err == nil && step == "pin" {
				t.Error("a new map is left pinned")
			}
			fails = false
			must(t, d.Grow(RoomFor(fewestReals, 0)))
			if d.Reals[7].Weight != 3 || len(d.Reals) != 2*fewestReals {
				t.Errorf("%d reals, %+v", len(d.Reals), d.Reals[7])
			}
		})
	}
}

// While it grows nobody else may take the directory.
func TestGrowKeepsTheLock(t *testing.T) {
	o := options(t)
	o.Room = RoomFor(0, 0)
	d := open(t, o)
	must(t, d.Grow(RoomFor(fewestReals, 0)))
	if _, err := Open(t.Context(), o); !errors.Is(err, ErrLocked) {
		t.Errorf("error %v, want %v", err, ErrLocked)
	}
}

// Whoever looks at pinned maps takes the sizes that depend on options from the
// pins.
func TestSizedMaps(t *testing.T) {
	small, err := sizedSpec(Options{Flows: 1000, Templates: 1000, Room: RoomFor(0, 0)})
	must(t, err)
	large, err := sizedSpec(Options{Flows: 100_000, Templates: 100_000, IPv6: true, PiecesFrom: 100_000})
	must(t, err)
	var differ []string
	for name, m := range small.Maps {
		if pinned(name) && m.MaxEntries != large.Maps[name].MaxEntries {
			differ = append(differ, name)
		}
	}
	sized := sizedMaps()
	slices.Sort(differ)
	slices.Sort(sized)
	if !slices.Equal(differ, sized) {
		t.Errorf("sizes that differ by options: %v, want %v", differ, sized)
	}
}

func TestRoomFor(t *testing.T) {
	for _, c := range []struct {
		reals, lines int
		want         Room
	}{
		{0, 0, Room{fewestReals, fewestRingLines}},
		{fewestReals / 2, fewestRingLines / 2, Room{fewestReals, fewestRingLines}},
		{fewestReals/2 + 1, 20000, Room{2 * fewestReals, 2 * fewestRingLines}},
		{bpf.Reals, bpf.MostRingLines, Room{bpf.Reals, bpf.MostRingLines}},
	} {
		if got := RoomFor(c.reals, c.lines); got != c.want {
			t.Errorf("RoomFor(%d, %d) = %+v, want %+v", c.reals, c.lines, got, c.want)
		}
	}
}
