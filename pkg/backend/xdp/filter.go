package xdp

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/lvx-lb/lvx/bpf"
)

// wantedFilters is every entry that the trie should have.
func (b *Backend) wantedFilters() map[bpf.FilterKey]bpf.FilterAction {
	want := map[bpf.FilterKey]bpf.FilterAction{}
	add := func(service uint32, deny, allow []netip.Prefix) {
		if len(allow) > 0 { // whoever is not named is denied
			want[filterKey(service, netip.PrefixFrom(netip.IPv6Unspecified(), 0))] = bpf.FilterDeny
		}
		for _, p := range allow {
			want[filterKey(service, p)] = bpf.FilterAllow
		}
		for _, p := range deny { // of two equal prefixes deny wins
			want[filterKey(service, p)] = bpf.FilterDeny
		}
	}
	add(bpf.FilterGlobal, b.state.Deny, b.state.Allow)
	for i := range b.state.Services { // by reference: there may be ten thousand
		if conf := &b.state.Services[i]; len(conf.Deny)+len(conf.Allow) > 0 {
			add(b.services[conf.Name].cookie, conf.Deny, conf.Allow)
		}
	}
	return want
}

// filterKey is a prefix as struct filter_key has it; IPv4 lies below
// ::ffff:0:0/96.
func filterKey(service uint32, p netip.Prefix) bpf.FilterKey {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	k := bpf.FilterKey{Bits: uint32(32 + bits), Service: service}
	k.Prefix = bpf.AddressOf(p.Masked().Addr())
	return k
}

func (b *Backend) addFilters() error {
	for k, action := range b.wantedFilters() {
		if old, ok := b.filters[k]; ok && old == action {
			continue
		}
		err := b.fail("add filter")
		if err == nil {
			err = b.dp.Maps.Filters.Put(k, action)
		}
		if err != nil {
			return fmt.Errorf("deny and allow lists: %w (at most 1048576 prefixes)", err)
		}
		b.filters[k] = action
	}
	return nil
}

func (b *Backend) removeFilters() error {
	want := b.wantedFilters()
	for k := range b.filters {
		if _, ok := want[k]; ok {
			continue
		}
		err := b.fail("remove filter")
		if err == nil {
			err = b.dp.Maps.Filters.Delete(k)
		}
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("deny and allow lists: %w", err)
		}
		delete(b.filters, k)
	}
	return nil
}

// adoptFilters reads a predecessor's entries, so that stale ones go.
func (b *Backend) adoptFilters() {
	var k bpf.FilterKey
	var v bpf.FilterAction
	for it := b.dp.Maps.Filters.Iterate(); it.Next(&k, &v); {
		b.filters[k] = v
	}
}
