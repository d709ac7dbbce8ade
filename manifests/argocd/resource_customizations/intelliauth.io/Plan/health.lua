-- The health of a Plan: whether tenants can be made of it.

local status = obj.status or {}

local function condition(name)
  for _, each in ipairs(status.conditions or {}) do
    if each.type == name then
      return each
    end
  end
  return {}
end

-- -1 is what the API server says of a Plan that the operator has not looked at yet.
if status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "the operator has not looked at this version yet" }
end

local ready = condition("Ready")
if ready.status == "True" then
  return { status = "Healthy", message = ready.message }
end
if condition("Stalled").status == "True" then
  return { status = "Degraded", message = ready.message }
end
return { status = "Progressing", message = ready.message or "not judged yet" }
