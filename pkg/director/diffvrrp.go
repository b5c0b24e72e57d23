package director

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/lvx-lb/lvx/pkg/vrrp"
)

// vrrpKeys are the keys of the file by the fields of [vrrp.Instance].
var vrrpKeys = map[string]string{
	"Interface": "interface", "VRID": "virtual_router_id", "Version": "version", "Priority": "priority",
	"AdvertInterval": "advert_interval", "AuthPass": "auth_pass", "NoPreempt": "preempt", "PreemptDelay": "preempt_delay",
	"StartupDelay": "startup_delay", "UnicastPeers": "unicast_peers", "Source": "unicast_source", "Track": "track_interfaces",
	"TrackServices": "track_services", "TrackWeight": "track_weight", "TrackExec": "track_exec", "TrackFiles": "track_file",
	"TrackProcesses": "track_process", "TrackBFD": "track_bfd", "SyncGroup": "sync_group", "Addresses": "addresses",
	"Unadvertised": "addresses (advertise)", "Devices": "addresses (interface)", "Routing": "routes or rules",
}

// vrrpShown are the fields whose values a line has: short ones that are no secret.
var vrrpShown = []string{"Interface", "VRID", "Version", "Priority", "AdvertInterval", "PreemptDelay", "StartupDelay", "Source", "TrackWeight", "SyncGroup"}

// diffVRRP has a line for each instance that comes, goes or changes.
func diffVRRP(a, b []vrrp.Instance) (lines []string) {
	for i := range b {
		n := slices.IndexFunc(a, func(old vrrp.Instance) bool { return old.Name == b[i].Name })
		if n < 0 {
			lines = append(lines, fmt.Sprintf("add vrrp %s: virtual_router_id %d, priority %d", b[i].Name, b[i].VRID, b[i].Priority))
		} else if words := diffInstance(&a[n], &b[i]); len(words) > 0 {
			lines = append(lines, "vrrp "+b[i].Name+": "+strings.Join(words, ", "))
		}
	}
	for i := range a {
		if !slices.ContainsFunc(b, func(next vrrp.Instance) bool { return next.Name == a[i].Name }) {
			lines = append(lines, "remove vrrp "+a[i].Name)
		}
	}
	if len(lines) == 0 && !reflect.DeepEqual(a, b) {
		lines = append(lines, "vrrp: another order")
	}
	return lines
}

// diffInstance is "priority 100 -> 150", "auth_pass changed".
func diffInstance(a, b *vrrp.Instance) (words []string) {
	old, next := reflect.ValueOf(*a), reflect.ValueOf(*b)
	for i := range old.NumField() {
		field := old.Type().Field(i).Name
		was, is := old.Field(i).Interface(), next.Field(i).Interface()
		switch {
		case reflect.DeepEqual(was, is):
		case field == "Addresses":
			words = append(words, addressWords(a.Addresses, b.Addresses))
		case slices.Contains(vrrpShown, field):
			words = append(words, fmt.Sprintf("%s %s -> %s", vrrpKeys[field], shown(was), shown(is)))
		default:
			words = append(words, vrrpKeys[field]+" changed")
		}
	}
	return words
}

// addressWords is what comes and goes; the order of VIPs is one of adverts.
func addressWords(a, b []netip.Prefix) string {
	if words := diffPrefixes("addresses", a, b); words != "" {
		return words
	}
	return "another order of addresses"
}

// shown is a value in words; one that is not set has some, too.
func shown(value any) string {
	if addr, is := value.(netip.Addr); is && !addr.IsValid() || value == "" {
		return "none"
	}
	return fmt.Sprint(value)
}
