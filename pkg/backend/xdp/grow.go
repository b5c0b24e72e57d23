package xdp

import (
	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// grow makes room in the tables of reals and rings for services that did not
// fit, and for as much again. It reports false where the tables are as large as
// they can be already, or with an error.
//
// What has left takes room, too: where there should be enough by what the
// services need, it is doubled.
func (b *Backend) grow(services []lb.Service) (grown bool, err error) {
	has := b.dp.Room()
	want := RoomFor(services).Union(has)
	if want == has {
		want = loader.RoomFor(has.Reals, has.RingLines).Union(has) // twice as much
	}
	if want == has {
		return false, nil
	}
	b.graceRunning.Wait() // nothing of the old tables is being read that is to be given back
	b.growing.Lock()
	err = b.dp.Grow(want)
	b.growing.Unlock()
	if err != nil {
		return false, err
	}
	now := b.dp.Room()
	b.log.Info("the tables have grown", "reals", now.Reals, "was", has.Reals, "ring_lines", now.RingLines, "ring_lines_before", has.RingLines)
	b.slots.grow(now.Reals)
	b.rings.give(span{uint32(has.RingLines), uint32(now.RingLines - has.RingLines)})
	b.recount() // packets between copy and exchange counted in the old table
	return true, nil
}
