package loader

import (
	"context"
	"errors"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/lvx-lb/lvx/loader/echo"
)

// ErrLost says what a trial of native mode has shown.
var ErrLost = errors.New("frames that XDP sends are lost: neighbours answer echoes of this host, but none that XDP sent")

// attachNative attaches a program in native mode. At the first time on a device, where there
// are neighbours to ask, the link holds the program of the test first: to take a program off makes
// some drivers drop their link, to exchange it does not.
func (d *Datapath) attachNative(ctx context.Context, a *Attachment, prog *ebpf.Program) (link.Link, error) {
	native := link.XDPOptions{Program: prog, Interface: a.Index, Flags: link.XDPDriverMode}
	if len(d.opts.Neighbors) == 0 || !a.isUntried {
		return link.AttachXDP(native)
	}
	test, err := echo.New()
	if err != nil {
		d.opts.Log.Warn("whether frames leave in native mode cannot be tried out", "interface", a.Name, "err", err)
		return link.AttachXDP(native)
	}
	defer test.Close()
	native.Program = test.Program()
	l, err := link.AttachXDP(native)
	if err != nil {
		return nil, err
	}
	a.Proof = d.prove(ctx, a, test)
	if a.Proof == Disproven && d.opts.Mode != Native {
		a.Proof = NotAsked // of the mode that serves
		return nil, errors.Join(ErrLost, detachAtOnce(l))
	}
	if a.Proof == Disproven {
		d.opts.Log.Warn("native mode is asked for, and serves", "interface", a.Name, "err", ErrLost)
	}
	if err := l.Update(prog); err != nil {
		return nil, errors.Join(err, detachAtOnce(l))
	}
	return l, nil
}

// prove asks the neighbours.
func (d *Datapath) prove(ctx context.Context, a *Attachment, test *echo.Test) Proof {
	result, err := test.Run(ctx, a.Names()[0], d.opts.Neighbors)
	switch {
	case err != nil:
		d.opts.Log.Warn("whether frames leave in native mode cannot be tried out", "interface", a.Name, "err", err)
	case result == echo.Sent:
		d.opts.Log.Info("native XDP is proven: an echo that it sent was answered", "interface", a.Name)
		return Proven
	case result == echo.Lost:
		return Disproven
	}
	return NotProven
}
