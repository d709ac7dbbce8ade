obj.spec.desiredState = "Decommissioned"
return obj
