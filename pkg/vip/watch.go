package vip

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Watch calls back whenever an address went from an interface of this host,
// or an interface came or came up, whoever did it: a VIP may be missing then. So may it where an
// interface is in a network that it was not in before, which a VIP may belong to.
// It also calls where the kernel has lost messages. It returns nil when ctx
// ends.
func Watch(ctx context.Context, call func()) error {
	sub, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_LINK)
	if err != nil {
		return fmt.Errorf("address events: %w", err)
	}
	context.AfterFunc(ctx, sub.Close) // ends Receive
	for {
		msgs, from, err := sub.Receive()
		if ctx.Err() != nil {
			return nil
		}
		missing := err != nil
		for _, m := range msgs {
			missing = missing || from.Pid == nl.PidKernel && mayMissVIP(m)
		}
		if missing {
			call()
		}
		if err != nil {
			pause(ctx, time.Second) // an error that stays must not keep the processor busy
		}
	}
}

// mayMissVIP reports whether an interface may lack a VIP after what a message says.
func mayMissVIP(m syscall.NetlinkMessage) bool {
	switch m.Header.Type {
	case unix.RTM_DELADDR, unix.RTM_NEWLINK:
		return true
	case unix.RTM_NEWADDR: // begins with struct ifaddrmsg: family, prefix length
		return len(m.Data) > 1 && (m.Data[0] == unix.AF_INET && m.Data[1] < 32 || m.Data[0] == unix.AF_INET6 && m.Data[1] < 128)
	}
	return false
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
