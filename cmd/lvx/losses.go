package main

import (
	"context"
	"time"

	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/director"
)

// lossPause is the least time between two looks at what drivers lose.
const lossPause = time.Second

// lossMeter says what drivers have lost since it was asked last. What drivers
// count themselves is left out: the kernel's tracepoints have it sooner.
type lossMeter struct {
	client *admin.Client
	looked time.Time
	before map[director.Loss]uint64 // by counter: its Frames are 0
}

func newLossMeter(ctx context.Context, c *admin.Client) *lossMeter {
	m := &lossMeter{client: c, before: map[director.Loss]uint64{}}
	m.grown(ctx)
	return m
}

// grown lists the counts that have grown, by how much.
func (m *lossMeter) grown(ctx context.Context) (grown []director.Loss) {
	m.looked = time.Now()
	losses, err := m.client.Losses(ctx)
	if err != nil {
		return nil // whoever is watched will say what the matter is
	}
	for _, l := range losses {
		if l.IsDrivers {
			continue
		}
		frames := l.Frames
		l.Frames = 0
		if more := frames - m.before[l]; frames > m.before[l] {
			m.before[l] = frames
			l.Frames = more
			grown = append(grown, l)
		}
	}
	return grown
}

// isDue reports whether it is time for another look.
func (m *lossMeter) isDue() bool { return time.Since(m.looked) >= lossPause }
