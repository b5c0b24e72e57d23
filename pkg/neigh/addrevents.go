package neigh

import (
	"context"
	"fmt"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// WhenGone calls back whenever an address went from an interface of this
// host, whatever took it away, until ctx ends; it then returns nil. It also
// calls where the kernel has lost messages, and any address may be gone.
func WhenGone(ctx context.Context, call func()) error {
	sub, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
	if err != nil {
		return fmt.Errorf("address events: %w", err)
	}
	context.AfterFunc(ctx, sub.Close) // ends Receive
	for {
		msgs, from, err := sub.Receive()
		if ctx.Err() != nil {
			return nil
		}
		removed := err != nil
		for _, m := range msgs {
			removed = removed || from.Pid == nl.PidKernel && m.Header.Type == unix.RTM_DELADDR
		}
		if removed {
			call()
		}
		if err != nil {
			sleepFor(ctx, time.Second) // an error that stays must not keep the processor busy
		}
	}
}

func sleepFor(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
