package daemon

import (
	"slices"

	"github.com/lvx-lb/lvx/loader"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/hostinfo"
)

// listVLANs implements [loader.Options.VLANs].
func listVLANs() (all []loader.VLAN) {
	for _, v := range hostinfo.VLANs() {
		all = append(all, loader.VLAN(v))
	}
	return all
}

// cannotServe implements [loader.Options.CannotServe].
func cannotServe(v loader.VLAN) error { return hostinfo.CannotServe(hostinfo.VLAN(v)) }

// programDevices are the interfaces whose programs serve those that a configuration
// names: of a VLAN that below it, where that can be.
func programDevices(cfg *config.Config) (devices []string) {
	for _, name := range cfg.Interfaces {
		device, _ := programDevice(cfg, name)
		if !slices.Contains(devices, device) {
			devices = append(devices, device)
		}
	}
	return devices
}

// programDevice is the interface whose program serves another one, and why that is
// not the one below it, where it is a VLAN's.
func programDevice(cfg *config.Config, name string) (device string, why error) {
	v, isVLAN := hostinfo.VLANOf(name)
	if !isVLAN || cfg.XDPMode == config.XDPGeneric {
		return name, nil
	}
	if err := hostinfo.CannotServe(v); err != nil {
		return name, err
	}
	return v.Device, nil
}
